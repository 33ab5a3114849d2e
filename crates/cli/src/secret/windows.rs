//! Access lists of Windows: files and folders that are their owner's alone, and who may use one.

#![expect(
    unsafe_code,
    reason = "Windows has access lists in C alone, and no library for them is kept"
)]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::windows::ffi::OsStrExt;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::path::{Component, Path, Prefix, absolute};
use std::ptr;

use windows_sys::Win32::Foundation::{
    ERROR_SUCCESS, GENERIC_ALL, GENERIC_WRITE, INVALID_HANDLE_VALUE, LocalFree,
};
use windows_sys::Win32::Security::Authorization::{
    ConvertSidToStringSidW, ConvertStringSecurityDescriptorToSecurityDescriptorW,
    GetNamedSecurityInfoW, SDDL_REVISION_1, SE_FILE_OBJECT, SetNamedSecurityInfoW,
};
use windows_sys::Win32::Security::{
    ACCESS_ALLOWED_ACE, DACL_SECURITY_INFORMATION, GetAce, GetSecurityDescriptorDacl,
    GetTokenInformation, INHERITED_ACE, OWNER_SECURITY_INFORMATION,
    PROTECTED_DACL_SECURITY_INFORMATION, PSID, SECURITY_ATTRIBUTES, SECURITY_MAX_SID_SIZE,
    TOKEN_QUERY, TOKEN_USER, TokenUser,
};
use windows_sys::Win32::Storage::FileSystem::{
    CREATE_NEW, CreateDirectoryW, CreateFileW, FILE_ATTRIBUTE_NORMAL, FILE_SHARE_DELETE,
    FILE_SHARE_READ, FILE_SHARE_WRITE,
};
use windows_sys::Win32::System::SystemServices::{
    ACCESS_ALLOWED_ACE_TYPE, ACCESS_ALLOWED_CALLBACK_ACE_TYPE,
};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

use super::access::{Access, EVERYONE, Grant};

/// Makes a file that was not there before, to be written, which from its first moment belongs to the account that this program
/// runs as and can be used by that one alone, whatever its folder says.
pub(super) fn create_file(path: &Path) -> io::Result<File> {
    let path = wide(path)?;
    let descriptor = own("")?;
    let attributes = attributes(&descriptor);
    // SAFETY: the path ends with a zero, and the attributes point to a descriptor that lives until after the call.
    let handle = unsafe {
        CreateFileW(
            path.as_ptr(),
            GENERIC_WRITE,
            // What is usual in Rust, with which it can be renamed while it is open.
            FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE,
            &raw const attributes,
            CREATE_NEW,
            FILE_ATTRIBUTE_NORMAL,
            ptr::null_mut(),
        )
    };
    if handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle has just been opened, and nobody else closes it.
    Ok(unsafe { File::from_raw_handle(handle) })
}

/// Makes a folder that is missing, with those that it is in, like [`create_file`]. What is made in them has the same access.
pub(super) fn create_folders(path: &Path) -> io::Result<()> {
    let created = || match create_folder(path) {
        // The error differs: access is denied to a drive that is there.
        Err(_) if path.is_dir() => Ok(()),
        created => created,
    };
    match (created(), path.parent()) {
        (Err(error), Some(parent)) if error.kind() == io::ErrorKind::NotFound => {
            create_folders(parent)?;
            created()
        }
        (first, _) => first,
    }
}

fn create_folder(path: &Path) -> io::Result<()> {
    let path = wide(path)?;
    let descriptor = own(INHERITED)?;
    let attributes = attributes(&descriptor);
    // SAFETY: the path ends with a zero, and the attributes point to a descriptor that lives until after the call.
    succeeded(unsafe { CreateDirectoryW(path.as_ptr(), &raw const attributes) })
}

/// Keeps everybody out of a folder but the account that this program runs as. What is in it follows, where its access comes
/// from the folder.
pub(super) fn restrict_folder(path: &Path) -> io::Result<()> {
    let path = wide(path)?;
    let descriptor = own(INHERITED)?;
    let (mut present, mut list, mut defaulted) = (0, ptr::null_mut(), 0);
    // SAFETY: the descriptor is one, and the list is within it.
    succeeded(unsafe {
        GetSecurityDescriptorDacl(descriptor.0, &raw mut present, &raw mut list, &raw mut defaulted)
    })?;
    // SAFETY: the path ends with a zero, and the list lives as long as the descriptor does.
    done(unsafe {
        SetNamedSecurityInfoW(
            path.as_ptr(),
            SE_FILE_OBJECT,
            DACL_SECURITY_INFORMATION | PROTECTED_DACL_SECURITY_INFORMATION,
            ptr::null_mut(),
            ptr::null_mut(),
            list,
            ptr::null(),
        )
    })
}

/// Who may use a file or a folder.
pub(super) fn access(path: &Path) -> io::Result<Access> {
    let path = wide(path)?;
    let (mut owner, mut list, mut descriptor) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
    // SAFETY: the path ends with a zero, and each of the others is a place for a pointer.
    done(unsafe {
        GetNamedSecurityInfoW(
            path.as_ptr(),
            SE_FILE_OBJECT,
            OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION,
            &raw mut owner,
            ptr::null_mut(),
            &raw mut list,
            ptr::null_mut(),
            &raw mut descriptor,
        )
    })?;
    // The owner and the list are within it.
    let _descriptor = Allocated(descriptor);
    // SAFETY: the descriptor lives to the end of the function.
    let owner = unsafe { text(owner) }?;
    let mut grants = Vec::new();
    if list.is_null() {
        // Nothing names those whom the lack of a list lets in, so that nothing can be taken from them.
        grants.push(Grant { sid: EVERYONE.to_owned(), mask: GENERIC_ALL, inherited: true });
    } else {
        // SAFETY: a list that is there begins with this head, and lives as long as the descriptor.
        let count = unsafe { (*list).AceCount };
        for index in 0..count {
            let mut entry = ptr::null_mut();
            // SAFETY: the list lives as long as the descriptor; where it has no such entry the call fails.
            succeeded(unsafe { GetAce(list, u32::from(index), &raw mut entry) })?;
            // SAFETY: as `entry` asks for.
            grants.extend(unsafe { grant(entry.cast()) }?);
        }
    }
    Ok(Access { owner, user: user()?, grants })
}

/// What an entry of an access list allows; nothing if it is of another kind.
///
/// # Safety
///
/// The pointer must be to an entry, which must outlive the call.
unsafe fn grant(entry: *const ACCESS_ALLOWED_ACE) -> io::Result<Option<Grant>> {
    // SAFETY: every entry begins with this head.
    let head = unsafe { (*entry).Header };
    // The second one has a condition behind its identifier, of which nobody can tell here when it holds.
    if ![ACCESS_ALLOWED_ACE_TYPE, ACCESS_ALLOWED_CALLBACK_ACE_TYPE].contains(&head.AceType.into()) {
        return Ok(None);
    }
    // SAFETY: entries of both kinds have a mask and then an identifier, of which this is the first field.
    let (mask, sid) =
        unsafe { ((*entry).Mask, text((&raw const (*entry).SidStart).cast_mut().cast())?) };
    Ok(Some(Grant { sid, mask, inherited: u32::from(head.AceFlags) & INHERITED_ACE != 0 }))
}

/// The flags of an entry that files and folders within a folder get as well, in Microsoft's security descriptor language.
const INHERITED: &str = "OICI";

/// A descriptor by which something belongs to the account that this program runs as, which alone may do all with it (FA), and
/// takes nothing over from its folder (P). The owner is named, as it would be a group of an administrator's.
fn own(flags: &str) -> io::Result<Allocated> {
    let user = user()?;
    let text = format!("O:{user}D:P(A;{flags};FA;;;{user})");
    let text: Vec<u16> = text.encode_utf16().chain([0]).collect();
    let mut descriptor = ptr::null_mut();
    // SAFETY: the text ends with a zero, and there is a place for the pointer; no size is asked for.
    succeeded(unsafe {
        ConvertStringSecurityDescriptorToSecurityDescriptorW(
            text.as_ptr(),
            SDDL_REVISION_1,
            &raw mut descriptor,
            ptr::null_mut(),
        )
    })?;
    Ok(Allocated(descriptor))
}

/// How something is to be made. Valid as long as the descriptor.
fn attributes(descriptor: &Allocated) -> SECURITY_ATTRIBUTES {
    SECURITY_ATTRIBUTES {
        nLength: size_of::<SECURITY_ATTRIBUTES>() as u32,
        lpSecurityDescriptor: descriptor.0,
        bInheritHandle: 0,
    }
}

/// The security identifier of the account that this program runs as.
fn user() -> io::Result<String> {
    #[repr(C)]
    struct User {
        user: TOKEN_USER,
        sid: [u8; SECURITY_MAX_SID_SIZE as usize],
    }

    let mut token = ptr::null_mut();
    // SAFETY: the process is this one, and there is a place for the handle.
    succeeded(unsafe { OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &raw mut token) })?;
    // SAFETY: the handle has just been opened, and nobody else closes it.
    let token = unsafe { OwnedHandle::from_raw_handle(token) };
    let mut user = User { user: TOKEN_USER::default(), sid: [0; SECURITY_MAX_SID_SIZE as usize] };
    let (size, mut used) = (size_of::<User>() as u32, 0);
    // SAFETY: no more than that size is written, the pointer of the user to the identifier behind it.
    succeeded(unsafe {
        let into: *mut User = &raw mut user;
        GetTokenInformation(token.as_raw_handle(), TokenUser, into.cast(), size, &raw mut used)
    })?;
    // SAFETY: the identifier is in what has just been written.
    unsafe { text(user.user.User.Sid) }
}

/// A security identifier as text.
///
/// # Safety
///
/// The pointer must be to an identifier, which must outlive the call, or null.
unsafe fn text(sid: PSID) -> io::Result<String> {
    let mut text = ptr::null_mut();
    // SAFETY: as asked for; the call fails with what is no identifier.
    succeeded(unsafe { ConvertSidToStringSidW(sid, &raw mut text) })?;
    let _text = Allocated(text.cast());
    let mut read = String::new();
    // SAFETY: the text ends with a zero, and lives to the end of the function.
    while let Some(unit) =
        unsafe { text.add(read.len()).read() }.try_into().ok().filter(u8::is_ascii_graphic)
    {
        read.push(char::from(unit));
    }
    Ok(read)
}

/// What the system has allocated and has its caller free.
struct Allocated(*mut c_void);

impl Drop for Allocated {
    fn drop(&mut self) {
        // SAFETY: the system has allocated it, and nobody else frees it.
        unsafe { LocalFree(self.0) };
    }
}

/// A path as the system takes one of any length, with a zero at its end.
fn wide(path: &Path) -> io::Result<Vec<u16>> {
    // This refuses a zero within.
    let path = absolute(path)?;
    let (start, skipped) = match path.components().next() {
        Some(Component::Prefix(prefix)) => match prefix.kind() {
            Prefix::Disk(_) => (r"\\?\", 0),
            Prefix::UNC(..) => (r"\\?\UNC\", r"\\".len()),
            _ => ("", 0),
        },
        _ => ("", 0),
    };
    let rest = path.as_os_str().encode_wide().skip(skipped);
    Ok(start.encode_utf16().chain(rest).chain([0]).collect())
}

/// Of a function that returns whether it has succeeded.
fn succeeded(returned: i32) -> io::Result<()> {
    if returned == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Of a function that returns the error itself.
fn done(code: u32) -> io::Result<()> {
    if code == ERROR_SUCCESS {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(code.cast_signed()))
    }
}
