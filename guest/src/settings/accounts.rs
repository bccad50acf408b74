//! Users and groups by name, from /etc/passwd and /etc/group alone: libc's look-up would load name
//! service modules into a program that is to stay small. Of accounts that are elsewhere write the number.

use std::path::Path;

/// The longest of these files that is read, in bytes.
const MAX_FILE_BYTES: usize = 4 << 20;

/// A user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// Its number.
    pub uid: u32,
    /// Its first group.
    pub gid: u32,
}

/// Text that may be an account's name or number.
pub(super) fn name(text: &str) -> Result<String, String> {
    let plain = |c: char| !c.is_control() && c != ':' && !c.is_whitespace();
    match !text.is_empty() && text.len() <= 256 && text.chars().all(plain) {
        true => Ok(text.into()),
        false => Err(format!("{text:?} is no user or group")),
    }
}

/// The user of that name or number. A number that no line has is its own group.
///
/// # Errors
/// /etc/passwd cannot be read or has no such name.
pub fn user(name: &str) -> anyhow::Result<User> {
    find_user(&read("/etc/passwd")?, name).ok_or_else(|| {
        anyhow::anyhow!("there is no user {name:?} in /etc/passwd; write its number")
    })
}

/// The number of the group of that name.
///
/// # Errors
/// /etc/group cannot be read or has no such name.
pub fn group(name: &str) -> anyhow::Result<u32> {
    if let Ok(gid) = name.parse() {
        return Ok(gid);
    }
    find_group(&read("/etc/group")?, name).ok_or_else(|| {
        anyhow::anyhow!("there is no group {name:?} in /etc/group; write its number")
    })
}

fn read(path: &str) -> anyhow::Result<String> {
    use anyhow::Context as _;
    super::units::read_bounded(Path::new(path), MAX_FILE_BYTES).context(path.to_owned())
}

/// passwd(5): name:password:UID:GID:...
fn find_user(passwd: &str, name: &str) -> Option<User> {
    let number: Option<u32> = name.parse().ok();
    let line = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (login, uid, gid) = (fields.next()?, fields.nth(1)?, fields.next()?);
        let user = User {
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
        };
        (login == name || number == Some(user.uid)).then_some(user)
    });
    line.or(number.map(|uid| User { uid, gid: uid }))
}

/// group(5): name:password:GID:...
fn find_group(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:34:web:/var/www:/usr/sbin/nologin\n";

    #[test]
    fn users_are_found_by_name_and_by_number() {
        let web = User { uid: 33, gid: 34 };
        assert_eq!(find_user(PASSWD, "web"), Some(web));
        assert_eq!(find_user(PASSWD, "33"), Some(web));
        assert_eq!(find_user(PASSWD, "77"), Some(User { uid: 77, gid: 77 }));
        assert_eq!(find_user(PASSWD, "nobody"), None);
        assert_eq!(find_user(PASSWD, "broken"), None);
    }

    #[test]
    fn groups_are_found_by_name() {
        assert_eq!(find_group("root:x:0:\nadm:x:4:a,b\n", "adm"), Some(4));
        assert_eq!(find_group("root:x:0:\n", "a"), None);
    }
}
