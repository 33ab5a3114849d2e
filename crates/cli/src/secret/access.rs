//! Who may read a file on Windows, and for whom a secret in it is meant.

use std::path::Path;

/// The security identifier of everybody ("Well-known SIDs" of Microsoft's, as all that are named here).
pub(super) const EVERYONE: &str = "S-1-1-0";

/// Groups that strangers are in, which own a file only where the file system knows no owners.
const GROUPS: [(&str, &str); 6] = [
    (EVERYONE, "Everyone"),
    ("S-1-5-4", "Interactive"),
    ("S-1-5-7", "Anonymous"),
    ("S-1-5-11", "Authenticated Users"),
    ("S-1-5-32-545", "Users"),
    ("S-1-5-32-546", "Guests"),
];

/// Who can give themselves every file whatever its list says, as root can elsewhere: the system, and administrators.
const SYSTEM: [&str; 2] = ["S-1-5-18", "S-1-5-32-544"];

/// The owner by other names, also that of what will be made in a folder.
const OWNERS: [&str; 2] = ["S-1-3-4", "S-1-3-0"];

/// The accounts that services share.
const SERVICES: [&str; 2] = ["S-1-5-19", "S-1-5-20"];

/// All services together; an account of one service alone begins with the same.
const ALL_SERVICES: &str = "S-1-5-80-0";

/// The rights to read a file, to change it, and to give oneself these (Microsoft's "File access rights constants" and "Access
/// mask").
const RIGHTS: u32 = 0x1 | 0x2 | 0x4 | 0x4_0000 | 0x8_0000 | 0x1000_0000 | 0x4000_0000 | 0x8000_0000;

/// What one entry of a file's access list allows.
#[derive(Debug)]
pub(super) struct Grant {
    /// The security identifier of whom it is for.
    pub(super) sid: String,
    pub(super) mask: u32,
    /// Whether it is the folder's entry.
    pub(super) inherited: bool,
}

/// Who may do what with a file. Entries that deny are left out: who needs one to keep others out is warned.
#[derive(Debug)]
pub(super) struct Access {
    /// The owner's security identifier.
    pub(super) owner: String,
    /// That of the account that this program runs as.
    pub(super) user: String,
    pub(super) grants: Vec<Grant>,
}

impl Access {
    /// Those who can use the file and are not meant to.
    fn others(&self) -> impl Iterator<Item = &Grant> {
        self.grants.iter().filter(|grant| grant.mask & RIGHTS != 0 && !self.is_meant(&grant.sid))
    }

    fn is_meant(&self, sid: &str) -> bool {
        if GROUPS.iter().any(|(group, _)| *group == sid) {
            return false;
        }
        // An entry for a program in a container (15) lets in nobody whom another entry does not let in.
        sid == self.owner || self.is_trusted(sid) || sid.starts_with("S-1-15-")
    }

    /// Whether this is the account that this program runs as, or has rights of its own on this machine.
    fn is_trusted(&self, sid: &str) -> bool {
        sid == self.user || SYSTEM.contains(&sid) || OWNERS.contains(&sid) || is_service(sid)
    }

    /// The name or identifier of an owner who is another user.
    pub(super) fn strange_owner(&self) -> Option<&str> {
        (!self.is_trusted(&self.owner)).then(|| named(&self.owner))
    }

    /// Whether somebody else can use the file.
    pub(super) fn is_open(&self) -> bool {
        self.others().next().is_some()
    }

    /// By what names or identifiers those are known who can use the file and are not meant to.
    pub(super) fn named_others(&self) -> String {
        let names: Vec<_> = sids(self.others()).into_iter().map(named).collect();
        names.join(", ")
    }

    /// The command that keeps them out: no order of its parts changes what comes of it. Services, also as the system, and
    /// whoever reads the file now, can read it afterwards.
    pub(super) fn mended(&self, path: &Path) -> String {
        let path = path.display();
        let owner = if self.is_meant(&self.owner) { &self.owner } else { &self.user };
        let mut command = format!("icacls \"{path}\" /inheritance:r /grant \"*{owner}:F\"");
        let inherited = || self.grants.iter().filter(|grant| grant.inherited);
        // A service that runs as the system has no other way to read it.
        for sid in sids(inherited().filter(|grant| SYSTEM.contains(&grant.sid.as_str()))) {
            if sid != owner {
                command += &format!(" \"*{sid}:F\"");
            }
        }
        let mut readers = sids(inherited().filter(|grant| is_service(&grant.sid)));
        // It may be by an entry for a group that it can.
        readers.retain(|sid| *sid != self.user);
        readers.push(&self.user);
        for sid in readers.into_iter().filter(|sid| sid != owner) {
            command += &format!(" \"*{sid}:R\"");
        }
        let explicit = sids(self.others().filter(|grant| !grant.inherited));
        if !explicit.is_empty() {
            command += " /remove:g";
        }
        for sid in explicit {
            command += &format!(" \"*{sid}\"");
        }
        command
    }
}

/// Whether this is the account of a service.
fn is_service(sid: &str) -> bool {
    SERVICES.contains(&sid) || (sid.starts_with("S-1-5-80-") && sid != ALL_SERVICES)
}

/// Each once, in their order.
fn sids<'a>(grants: impl Iterator<Item = &'a Grant>) -> Vec<&'a str> {
    let mut sids: Vec<&str> = Vec::new();
    for grant in grants {
        if !sids.contains(&grant.sid.as_str()) {
            sids.push(&grant.sid);
        }
    }
    sids
}

fn named(sid: &str) -> &str {
    GROUPS.iter().find(|(group, _)| *group == sid).map_or(sid, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: &str = "S-1-5-21-1-2-3-1001";
    const USERS: &str = "S-1-5-32-545";
    const SERVICE: &str = "S-1-5-80-1-2-3-4-5";
    const READ: u32 = 0x0012_0089;
    const FULL: u32 = 0x001f_01ff;

    /// What each entry allows to whom, those of the folder behind a plus.
    fn access(owner: &str, grants: &[(&str, u32)]) -> Access {
        let grants = grants.iter().map(|(sid, mask)| Grant {
            sid: sid.trim_start_matches('+').to_owned(),
            mask: *mask,
            inherited: sid.starts_with('+'),
        });
        Access { owner: owner.to_owned(), user: OWNER.to_owned(), grants: grants.collect() }
    }

    #[test]
    fn whom_a_secret_is_meant_for_is_no_reason_for_a_warning() {
        for (sid, mask, open) in [
            (OWNER, FULL, false),
            // The system, administrators, the owner by another name.
            ("S-1-5-18", FULL, false),
            ("S-1-5-32-544", FULL, false),
            ("S-1-3-4", FULL, false),
            ("S-1-3-0", FULL, false),
            // LocalService, and services' own accounts; not all services.
            ("S-1-5-19", READ, false),
            (SERVICE, READ, false),
            ("S-1-5-80-0", READ, true),
            // A program in a container, and a user beside the owner.
            ("S-1-15-2-1", READ, false),
            ("S-1-5-21-1-2-3-1002", READ, true),
            (USERS, READ, true),
            (EVERYONE, 0x8000_0000, true),
            // To write it, and to change the list.
            (USERS, 0x2, true),
            (USERS, 0x4_0000, true),
            // To read its attributes and the list, and to execute it.
            (USERS, 0x0012_00a0, false),
        ] {
            assert_eq!(access(OWNER, &[(sid, mask)]).is_open(), open, "{sid} {mask:x}");
        }
        // The owner is an administrator's group, and the service reads it by its grant.
        let read =
            Access { user: SERVICE.to_owned(), ..access("S-1-5-32-544", &[(SERVICE, READ)]) };
        assert!(!read.is_open());
    }

    #[test]
    fn another_user_is_a_strange_owner() {
        for (owner, strange) in [
            (OWNER, None),
            ("S-1-5-32-544", None),
            (SERVICE, None),
            ("S-1-5-21-1-2-3-1002", Some("S-1-5-21-1-2-3-1002")),
            (EVERYONE, Some("Everyone")),
        ] {
            assert_eq!(access(owner, &[]).strange_owner(), strange);
        }
    }

    #[test]
    fn everybody_is_no_owner() {
        let access = access(EVERYONE, &[(EVERYONE, FULL)]);
        assert!(access.is_open());
        let command = access.mended(Path::new("key"));
        assert!(command.contains(&format!("/grant \"*{OWNER}:F\"")), "{command}");
    }

    #[test]
    fn the_command_keeps_out_whom_it_should_and_no_service() {
        let path = Path::new(r"C:\a b\key");
        let start = format!(r#"icacls "C:\a b\key" /inheritance:r /grant "*{OWNER}:F""#);
        let inherited = access(OWNER, &[("+S-1-5-18", FULL), ("+S-1-5-32-545", READ)]);
        assert_eq!(inherited.named_others(), "Users");
        assert_eq!(inherited.mended(path), format!(r#"{start} "*S-1-5-18:F""#));
        let service = format!("+{SERVICE}");
        let both = access(
            OWNER,
            &[(EVERYONE, READ), ("S-1-5-21-1-2-3-1002", READ), (EVERYONE, 0x2), (&service, READ)],
        );
        assert_eq!(both.named_others(), "Everyone, S-1-5-21-1-2-3-1002");
        assert_eq!(
            both.mended(path),
            format!(r#"{start} "*{SERVICE}:R" /remove:g "*{EVERYONE}" "*S-1-5-21-1-2-3-1002""#)
        );
        // A service that reads what is an administrator's, as one of all users.
        let admins = access("S-1-5-32-544", &[("+S-1-5-32-545", READ)]);
        let read = Access { user: SERVICE.to_owned(), ..admins };
        assert_eq!(
            read.mended(Path::new("key")),
            format!(r#"icacls "key" /inheritance:r /grant "*S-1-5-32-544:F" "*{SERVICE}:R""#)
        );
    }
}
