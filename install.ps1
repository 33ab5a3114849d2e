<#
.SYNOPSIS
Installs tunnel-rs on Windows, or brings it up to date. docs/INSTALL.md says more; install.sh is for Linux and macOS.

.PARAMETER Tag
The release to install, such as v0.1.0, instead of the latest stable one.

.PARAMETER PreRelease
The newest release, pre-releases among them.

.PARAMETER Ice
tunnel-rs-ice as well.

.PARAMETER System
For all users, into the folder of programs, which takes an administrator. Otherwise it is for this user alone.

.PARAMETER Prefix
Into the folder bin of this one. PATH is left as it is.

.PARAMETER NoSignature
Do not check the release's signature, even if gh is there to do it.

.PARAMETER Uninstall
Remove both programs from there.

.NOTES
TUNNEL_RS_BASE_URL in the environment names another place to download from, which has what is below
https://github.com/tunnel-rs/tunnel-rs/releases, and for -PreRelease the list of releases in releases.json.
#>
[CmdletBinding()]
param(
    [Parameter(Position = 0)] [string] $Tag = '',
    [switch] $PreRelease,
    [switch] $Ice,
    [switch] $System,
    [string] $Prefix = '',
    [switch] $NoSignature,
    [switch] $Uninstall
)

# In a scope of its own: behind `irm URL | iex` all else would stay in the user's session. For the same reason errors
# are thrown and never end in `exit`, which would close that session's window.
& {
    $ErrorActionPreference = 'Stop'
    # Windows PowerShell draws its progress so often that a download takes many times as long.
    $ProgressPreference = 'SilentlyContinue'

    $repository = 'tunnel-rs/tunnel-rs'
    $defaultUrl = "https://github.com/$repository/releases"
    $url = $defaultUrl
    if ($env:TUNNEL_RS_BASE_URL) { $url = $env:TUNNEL_RS_BASE_URL.TrimEnd('/') }
    $target = 'x86_64-pc-windows-msvc'
    $programs = @('tunnel-rs')
    if ($Ice) { $programs += 'tunnel-rs-ice' }

    function Test-Arguments {
        if ($Tag -and $Tag -notmatch '^[0-9A-Za-z_+-][0-9A-Za-z._+-]*$') {
            throw "'$Tag' cannot be the tag of a release; one looks like v0.1.0"
        }
        if ($Tag -and $PreRelease) { throw "either -PreRelease or the tag $Tag, not both" }
        if ($System -and $Prefix) { throw 'only one of -System and -Prefix' }
    }

    function Test-Platform {
        if ($PSVersionTable.PSEdition -eq 'Core' -and -not $IsWindows) {
            throw 'this is not Windows: use install.sh'
        }
        # A 32-bit PowerShell is told its own kind, and in the second variable that of the machine.
        $machine = $env:PROCESSOR_ARCHITECTURE
        if ($env:PROCESSOR_ARCHITEW6432) { $machine = $env:PROCESSOR_ARCHITEW6432 }
        switch ($machine) {
            'AMD64' { }
            'ARM64' { Write-Host 'There are no archives for Windows on arm64. That for x86-64 runs too, on Windows 11.' }
            default {
                throw "there are no archives for Windows on $machine, only for x86-64; with Rust it can be built from " +
                "source: cargo install --locked --git https://github.com/$repository tunnel-rs"
            }
        }
    }

    # The folder of the programs, and whose PATH has it: User, Machine, or nobody's.
    function Get-Place {
        if ($Prefix) {
            $full = $ExecutionContext.SessionState.Path.GetUnresolvedProviderPathFromPSPath($Prefix)
            return @{ Folder = Join-Path $full 'bin'; Path = '' }
        }
        if (-not $System) {
            return @{ Folder = Join-Path $env:LOCALAPPDATA 'Programs\tunnel-rs\bin'; Path = 'User' }
        }
        $user = [Security.Principal.WindowsPrincipal] [Security.Principal.WindowsIdentity]::GetCurrent()
        if (-not $user.IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator)) {
            throw 'to install for all users, start PowerShell as an administrator; or leave out -System'
        }
        # A 32-bit PowerShell has the folder of 32-bit programs in ProgramFiles.
        $root = $env:ProgramFiles
        if ($env:ProgramW6432) { $root = $env:ProgramW6432 }
        return @{ Folder = Join-Path $root 'tunnel-rs\bin'; Path = 'Machine' }
    }

    # Downloads to a file. Returns false if there is no such file, and throws for every other reason.
    function Save-File([string] $from, [string] $to) {
        try {
            Invoke-WebRequest -UseBasicParsing -Uri $from -OutFile $to
            return $true
        } catch [System.IO.IOException] {
            throw "cannot write ${to}: $($_.Exception.Message)"
        } catch {
            # The type of the error differs between Windows PowerShell and PowerShell; both have this.
            if ($_.Exception.Response -and [int] $_.Exception.Response.StatusCode -eq 404) { return $false }
            throw "cannot download ${from}: $($_.Exception.Message) Is there a network?"
        }
    }

    # The parts of a tag by which releases are ordered, or nothing if it is not that of a version.
    function Get-Version([string] $name) {
        if ($name -notmatch '^v(\d+\.\d+\.\d+)(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?$') { return }
        return @{ Tag = $name; Core = [version] $Matches[1]; Pre = [string] $Matches[2] }
    }

    # Whether a is older than b, by Semantic Versioning 2.0.0, section 11.
    function Test-Older($a, $b) {
        if ($a.Core -ne $b.Core) { return $a.Core -lt $b.Core }
        if (-not $a.Pre -or -not $b.Pre) { return [bool] $a.Pre -and -not $b.Pre }
        $x = $a.Pre.Split('.')
        $y = $b.Pre.Split('.')
        for ($i = 0; $i -lt [Math]::Min($x.Count, $y.Count); $i++) {
            if ($x[$i] -ceq $y[$i]) { continue }
            $xIsNumber = $x[$i] -match '^\d+$'
            $yIsNumber = $y[$i] -match '^\d+$'
            if ($xIsNumber -and $yIsNumber) { return [decimal] $x[$i] -lt [decimal] $y[$i] }
            if ($xIsNumber -ne $yIsNumber) { return $xIsNumber }
            return [string]::CompareOrdinal($x[$i], $y[$i]) -lt 0
        }
        return $x.Count -lt $y.Count
    }

    # The sums of a release, from the names of its files.
    function Read-Sums([string] $file) {
        $sums = @{}
        foreach ($line in Get-Content -LiteralPath $file) {
            if ($line -match '^([0-9a-fA-F]{64}) [ *](.+)$') { $sums[$Matches[2]] = $Matches[1] }
        }
        return $sums
    }

    # Which release: its tag and its sums.
    function Get-Release([string] $work) {
        $chosen = $Tag
        if ($PreRelease) {
            $list = "$url/releases.json"
            if ($url -eq $defaultUrl) { $list = "https://api.github.com/repos/$repository/releases?per_page=100" }
            $file = Join-Path $work 'releases.json'
            if (-not (Save-File $list $file)) { throw "there is no list of releases at $list" }
            $best = $null
            # The parentheses make one object of each release in Windows PowerShell, too.
            foreach ($release in (Get-Content -Raw -LiteralPath $file | ConvertFrom-Json)) {
                $version = Get-Version $release.tag_name
                if ($version -and (-not $best -or (Test-Older $best $version))) { $best = $version }
            }
            if (-not $best) { throw "$list names no release" }
            $chosen = $best.Tag
        }
        $file = Join-Path $work 'SHA256SUMS'
        if ($chosen) {
            if (-not (Save-File "$url/download/$chosen/SHA256SUMS" $file)) {
                throw "there is no release $chosen at $url, or it has no sums (SHA256SUMS)"
            }
            return @{ Tag = $chosen; Sums = Read-Sums $file }
        }
        if (-not (Save-File "$url/latest/download/SHA256SUMS" $file)) {
            throw "there is no stable release at $url, or it has no sums (SHA256SUMS); -PreRelease takes pre-releases"
        }
        $sums = Read-Sums $file
        # The archives' names have the tag. All that follows is taken from that release, whichever is then the latest.
        $pattern = "^tunnel-rs-(v\d[0-9A-Za-z._+-]*)-$([regex]::Escape($target))\.zip$"
        foreach ($name in $sums.Keys) {
            if ($name -match $pattern) { return @{ Tag = $Matches[1]; Sums = $sums } }
        }
        throw "the latest release at $url has no archive for $target"
    }

    # A release is signed by the workflow that makes it. Who has GitHub's own program can tell.
    function Test-Signature([string] $archive, $release, [string] $work) {
        if ($NoSignature) { return }
        $gh = Get-Command gh -CommandType Application -ErrorAction SilentlyContinue | Select-Object -First 1
        if (-not $gh -or -not ((& $gh.Source attestation verify --help | Out-String) -match '--signer-workflow')) {
            Write-Host ('The SHA-256 is right. The signature has not been checked: that takes gh ' +
                '(https://cli.github.com).')
            return
        }
        $bundle = Join-Path $work 'attestation.json'
        if (-not (Test-Path -LiteralPath $bundle)) {
            if (-not (Save-File "$url/download/$($release.Tag)/attestation.json" $bundle)) {
                throw "release $($release.Tag) at $url has no signature (attestation.json); -NoSignature installs it " +
                'all the same'
            }
        }
        & $gh.Source attestation verify $archive --bundle $bundle --repo $repository `
            --signer-workflow "$repository/.github/workflows/release.yml" | Out-Null
        if ($LASTEXITCODE -ne 0) {
            throw "the signature of $(Split-Path -Leaf $archive) could not be verified, and it is not installed; " +
            '-NoSignature leaves this check out'
        }
        Write-Host 'The SHA-256 and the signature are right.'
    }

    # Downloads, checks and unpacks one program, and returns where it is then.
    function Get-Program([string] $program, $release, [string] $work) {
        $name = "$program-$($release.Tag)-$target"
        $sum = $release.Sums["$name.zip"]
        if (-not $sum) { throw "release $($release.Tag) has no archive $name.zip among its sums" }
        Write-Host "Downloading $name.zip"
        $archive = Join-Path $work "$name.zip"
        if (-not (Save-File "$url/download/$($release.Tag)/$name.zip" $archive)) {
            throw "release $($release.Tag) at $url has no archive $name.zip"
        }
        $actual = (Get-FileHash -Algorithm SHA256 -LiteralPath $archive).Hash
        if ($actual -ne $sum) {
            throw "$name.zip is damaged or has been altered, and is not installed: its SHA-256 is $actual and should " +
            "be $sum"
        }
        Test-Signature $archive $release $work
        try {
            Expand-Archive -LiteralPath $archive -DestinationPath $work
        } catch {
            throw "cannot unpack ${name}.zip: $($_.Exception.Message)"
        }
        return Join-Path (Join-Path $work $name) "$program.exe"
    }

    # Puts the programs beside their places, tries them there, and only then renames them. One that runs cannot be
    # replaced on Windows, but it can be renamed, and goes on running; the next time its file is removed.
    function Set-Programs($unpacked, [string] $folder) {
        try {
            New-Item -ItemType Directory -Force -Path $folder | Out-Null
            Get-ChildItem -LiteralPath $folder -Filter 'tunnel-rs*.exe.old-*' |
                Remove-Item -Force -ErrorAction SilentlyContinue
        } catch {
            throw "cannot write to ${folder}: $($_.Exception.Message)"
        }
        $mark = [guid]::NewGuid().ToString('n')
        try {
            foreach ($program in $programs) {
                $new = Join-Path $folder "$program.exe.new-$mark"
                try {
                    Copy-Item -LiteralPath $unpacked[$program] -Destination $new
                } catch {
                    throw "cannot write to ${folder}: $($_.Exception.Message) Nothing has been changed there."
                }
            }
            foreach ($program in $programs) {
                & $unpacked[$program] --version | Out-Null
                if ($LASTEXITCODE -ne 0) {
                    throw "the downloaded $program does not run here. Nothing has been changed in $folder."
                }
            }
            foreach ($program in $programs) {
                Switch-File (Join-Path $folder "$program.exe") $mark
            }
        } finally {
            # On Ctrl-C, too.
            Get-ChildItem -LiteralPath $folder -Filter "*.new-$mark" | Remove-Item -Force -ErrorAction SilentlyContinue
        }
    }

    function Switch-File([string] $place, [string] $mark) {
        $old = "$place.old-$mark"
        try {
            if (Test-Path -LiteralPath $place) { Move-Item -LiteralPath $place -Destination $old }
            Move-Item -LiteralPath "$place.new-$mark" -Destination $place
        } catch {
            throw "cannot replace ${place}: $($_.Exception.Message)"
        } finally {
            if (Test-Path -LiteralPath $old) {
                if (Test-Path -LiteralPath $place) {
                    Remove-Item -LiteralPath $old -Force -ErrorAction SilentlyContinue
                } else {
                    Move-Item -LiteralPath $old -Destination $place
                }
            }
        }
    }

    # Adds a folder to PATH for good, or takes it out. The registry is read as it stands, because entries with variables
    # such as %USERPROFILE% would otherwise be written back as what they mean at present.
    function Set-PathEntry([string] $scope, [string] $folder, [bool] $wanted) {
        $place = 'HKCU:\Environment'
        if ($scope -eq 'Machine') { $place = 'HKLM:\SYSTEM\CurrentControlSet\Control\Session Manager\Environment' }
        $now = [string] (Get-Item -LiteralPath $place).GetValue('Path', '', 'DoNotExpandEnvironmentNames')
        $others = @($now.Split(';') | Where-Object { $_ -and $_.TrimEnd('\') -ne $folder })
        $has = @($now.Split(';') | Where-Object { $_.TrimEnd('\') -eq $folder }).Count -gt 0
        if ($has -eq $wanted) { return $false }
        if ($wanted) { $others += $folder }
        Set-ItemProperty -LiteralPath $place -Name 'Path' -Value ($others -join ';') -Type ExpandString
        # Writing any variable by this function tells running programs, such as the desktop, to read them again.
        [Environment]::SetEnvironmentVariable('TUNNEL_RS_INSTALL', 'done', $scope)
        [Environment]::SetEnvironmentVariable('TUNNEL_RS_INSTALL', $null, $scope)
        return $true
    }

    function Install-Programs($place) {
        Test-Platform
        $work = Join-Path ([IO.Path]::GetTempPath()) ('tunnel-rs-' + [guid]::NewGuid().ToString('n'))
        New-Item -ItemType Directory -Path $work | Out-Null
        try {
            $release = Get-Release $work
            $unpacked = @{}
            foreach ($program in $programs) { $unpacked[$program] = Get-Program $program $release $work }
            Set-Programs $unpacked $place.Folder
        } finally {
            Remove-Item -LiteralPath $work -Recurse -Force -ErrorAction SilentlyContinue
        }
        foreach ($program in $programs) {
            Write-Host "Installed $program $($release.Tag): $(Join-Path $place.Folder "$program.exe")"
        }
        Write-Host 'What runs goes on as it was until it is started again.'
        if ($place.Path) {
            if (Set-PathEntry $place.Path $place.Folder $true) {
                Write-Host "Added $($place.Folder) to PATH. Windows that are open elsewhere have to be opened again."
            }
            if (($env:Path -split ';') -notcontains $place.Folder) { $env:Path = "$env:Path;$($place.Folder)" }
        }
        $arguments = '-Uninstall'
        if ($System) { $arguments = '-Uninstall -System' }
        if ($Prefix) { $arguments = "-Uninstall -Prefix '$Prefix'" }
        Write-Host "To undo it:  & ([scriptblock]::Create((irm $url/latest/download/install.ps1))) $arguments"
    }

    function Remove-Programs($place) {
        $removed = $false
        foreach ($program in @('tunnel-rs', 'tunnel-rs-ice')) {
            $file = Join-Path $place.Folder "$program.exe"
            if (-not (Test-Path -LiteralPath $file)) { continue }
            try {
                Remove-Item -LiteralPath $file -Force
            } catch {
                throw "cannot remove ${file}: $($_.Exception.Message) End it if it runs; " +
                "a service ends for good by '$program service uninstall ROLE', such as server."
            }
            Write-Host "Removed $file"
            $removed = $true
        }
        if ($place.Path -and (Set-PathEntry $place.Path $place.Folder $false)) {
            Write-Host "Took $($place.Folder) out of PATH"
        }
        if (Test-Path -LiteralPath $place.Folder) {
            Get-ChildItem -LiteralPath $place.Folder -Filter 'tunnel-rs*.exe.old-*' |
                Remove-Item -Force -ErrorAction SilentlyContinue
            if ($place.Path -and -not (Get-ChildItem -LiteralPath $place.Folder)) {
                Remove-Item -LiteralPath $place.Folder
            }
        }
        if ($removed) {
            Write-Host 'Configuration and keys are still there.'
        } else {
            Write-Host "Nothing to remove in $($place.Folder). Was it installed with -System or -Prefix?"
        }
    }

    # Windows PowerShell may not offer TLS 1.2 by itself, and GitHub takes nothing older.
    [Net.ServicePointManager]::SecurityProtocol = [Net.ServicePointManager]::SecurityProtocol -bor
    [Net.SecurityProtocolType]::Tls12

    Test-Arguments
    $place = Get-Place
    if ($Uninstall) { Remove-Programs $place } else { Install-Programs $place }
}
