//! `Config.User` of an image, looked up in the image's own user database
//! (image-spec, conversion.md, "Config.User"). Pure: text in, numbers out.

use anyhow::{Result, bail};

/// `process.user` of config.json.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// The user.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// Further groups.
    pub additional_gids: Vec<u32>,
}

/// `/etc/passwd` and `/etc/group` of an image; empty where it has none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Database<'a> {
    /// passwd(5).
    pub passwd: &'a [u8],
    /// group(5).
    pub group: &'a [u8],
}

/// Looks up `user`, `uid`, and either with `:group` or `:gid`. Numbers are taken
/// as they are. A name brings its further groups, unless a group is given.
///
/// # Errors
/// The database knows no such user or group, or the number is no id.
pub fn find(user: &str, database: Database<'_>) -> Result<User> {
    let (name, group) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let (uid, login_gid) = match id(name.as_bytes()) {
        _ if name.is_empty() => (0, 0),
        // A number needs no entry; where there is one, it tells the group, as for Docker.
        Some(uid) => {
            (uid, passwd(database).find(|entry| entry.uid == uid).map_or(0, |entry| entry.gid))
        }
        None => match passwd(database).find(|entry| entry.name == name.as_bytes()) {
            Some(entry) => (entry.uid, entry.gid),
            None => bail!("config.User {user:?}: the image has no user {name:?}"),
        },
    };
    let Some(group) = group else {
        let named = !name.is_empty() && id(name.as_bytes()).is_none();
        let additional_gids =
            if named { memberships(database, name.as_bytes(), login_gid) } else { Vec::new() };
        return Ok(User { uid, gid: login_gid, additional_gids });
    };
    let gid = match id(group.as_bytes()) {
        Some(gid) => gid,
        None => match groups(database).find(|entry| entry.name == group.as_bytes()) {
            Some(entry) => entry.gid,
            None => bail!("config.User {user:?}: the image has no group {group:?}"),
        },
    };
    Ok(User { uid, gid, additional_gids: Vec::new() })
}

struct Login<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
}

struct Group<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

/// The lines that can be read; others are passed over, as the C library does.
fn passwd(database: Database<'_>) -> impl Iterator<Item = Login<'_>> {
    database.passwd.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let (name, _password) = (fields.next()?, fields.next()?);
        Some(Login { name, uid: id(fields.next()?)?, gid: id(fields.next()?)? })
    })
}

fn groups(database: Database<'_>) -> impl Iterator<Item = Group<'_>> {
    database.group.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let (name, _password) = (fields.next()?, fields.next()?);
        Some(Group { name, gid: id(fields.next()?)?, members: fields.next().unwrap_or_default() })
    })
}

fn memberships(database: Database<'_>, name: &[u8], primary: u32) -> Vec<u32> {
    let is_member =
        |group: &Group<'_>| group.members.split(|byte| *byte == b',').any(|member| member == name);
    let mut gids: Vec<u32> = groups(database).filter(is_member).map(|group| group.gid).collect();
    gids.retain(|gid| *gid != primary);
    gids.sort_unstable();
    gids.dedup();
    gids
}

/// An id: digits alone. The last number is none, setresuid(2) takes it for "leave what is
/// there", which would be root.
fn id(text: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(text).ok().filter(|_| text.iter().all(u8::is_ascii_digit))?;
    digits.parse().ok().filter(|id| *id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATABASE: Database<'_> = Database {
        passwd:
            b"root:x:0:0::/:/bin/sh\nbroken\nweb:x:33:34:\xff:/:\nbad:x:-1:0::/:\nnone:x:4294967295:0::/:\n99:x:5:6::/:\n",
        group: b"root:x:0:\nwheel:x:10:web,root\nweb:x:34:web\nlog:x:4:other,web\nwebs:x:7:webs\nnone:x:4294967295:web",
    };

    #[test]
    fn users_are_found_by_name_or_number_with_or_without_a_group() {
        for (user, uid, gid, additional_gids) in [
            ("", 0, 0, vec![]),
            ("root", 0, 0, vec![10]),
            ("web", 33, 34, vec![4, 10]),
            ("33", 33, 34, vec![]),
            ("1234", 1234, 0, vec![]),
            ("web:wheel", 33, 10, vec![]),
            ("web:1", 33, 1, vec![]),
            ("1000:wheel", 1000, 10, vec![]),
            ("1000:1000", 1000, 1000, vec![]),
            ("web:", 33, 34, vec![4, 10]),
            (":5", 0, 5, vec![]),
            ("4294967294", 4_294_967_294, 0, vec![]),
        ] {
            assert_eq!(
                find(user, DATABASE).unwrap(),
                User { uid, gid, additional_gids },
                "{user:?}"
            );
        }
    }

    #[test]
    fn a_user_or_group_that_the_image_does_not_know_is_an_error() {
        for (user, reason) in [
            ("nobody", "no user \"nobody\""),
            ("bad", "no user \"bad\""),
            ("-1", "no user \"-1\""),
            ("4294967295", "no user \"4294967295\""),
            ("4294967296", "no user"),
            ("+5", "no user \"+5\""),
            ("none", "no user \"none\""),
            ("web:4294967295", "no group \"4294967295\""),
            ("web:none", "no group \"none\""),
            ("web:nogroup", "no group \"nogroup\""),
        ] {
            assert!(find(user, DATABASE).unwrap_err().to_string().contains(reason), "{user}");
        }
        assert!(find("root", Database::default()).is_err());
    }

    #[test]
    fn a_number_and_nobody_are_no_names_of_members() {
        let database = Database { passwd: b"", group: b"a:x:4:\nb:x:5:7\n" };
        for (user, uid) in [("7", 7), ("", 0)] {
            let expected = User { uid, gid: 0, additional_gids: vec![] };
            assert_eq!(find(user, database).unwrap(), expected, "{user:?}");
        }
    }
}
