//! The host's accounts: text of `/etc/passwd` and `/etc/group` → numbers for names.
//!
//! Only these two files: a look-up through NSS could ask a server, and would need its libraries in the hook. An
//! account that lies elsewhere is written as a number.

/// Why a text names no user or group; reads after "the user" or "the group".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the sentences say it")]
pub enum NoId {
    #[error("is empty")]
    Empty,
    #[error("is not known on this host")]
    Unknown,
    #[error("is not a number, in spite of its plus sign")]
    NotANumber,
    #[error("is a number beyond 32 bits")]
    TooLarge,
    /// For `chown` it means: leave the owner as it is.
    #[error("is 4294967295, which the kernel keeps for \"none\"")]
    Reserved,
}

/// Both files, searched as they are: a start asks twice at most.
#[derive(Debug, Clone)]
pub struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    /// From the files' texts; a file that is missing is an empty text.
    pub fn new(passwd: &str, group: &str) -> Self {
        Self { passwd: passwd.to_owned(), group: group.to_owned() }
    }

    /// The uid that libvirt's `virGetUserID` makes of `user`: a name, else a number; `+` rules the name out.
    pub fn uid(&self, user: &str) -> Result<u32, NoId> {
        id(user, |name| Some(self.user(name)?.0))
    }

    /// The gid that libvirt's `virGetGroupID` makes of `group`, likewise.
    pub fn gid(&self, group: &str) -> Result<u32, NoId> {
        id(group, |name| find(&self.group, name, |mut fields| number(fields.nth(1)?).ok()))
    }

    /// The group that the user named `user` belongs to first of all.
    pub fn primary_gid(&self, user: &str) -> Option<u32> {
        Some(self.user(user)?.1)
    }

    /// uid and gid.
    fn user(&self, name: &str) -> Option<(u32, u32)> {
        find(&self.passwd, name, |mut fields| {
            Some((number(fields.nth(1)?).ok()?, number(fields.next()?).ok()?))
        })
    }
}

fn id(text: &str, by_name: impl Fn(&str) -> Option<u32>) -> Result<u32, NoId> {
    if text.is_empty() {
        return Err(NoId::Empty);
    }
    if let Some(digits) = text.strip_prefix('+') {
        return number(digits);
    }
    match (by_name(text), number(text)) {
        (Some(id), _) => Ok(id),
        (None, Err(NoId::NotANumber)) => Err(NoId::Unknown),
        (None, number) => number,
    }
}

/// What `take` makes of the fields after the name on the first line for `name` of which it can make something.
fn find<'a, T>(
    file: &'a str,
    name: &str,
    take: impl Fn(std::str::Split<'a, char>) -> Option<T>,
) -> Option<T> {
    // As in glibc: `#` begins a comment, `+` and `-` refer to NIS.
    file.lines().filter(|line| !line.starts_with(['#', '+', '-'])).find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| take(fields))?
    })
}

/// Decimal digits only: `strtoul`, which libvirt uses, would take `-1` for the largest number.
fn number(text: &str) -> Result<u32, NoId> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NoId::NotANumber);
    }
    match text.parse() {
        Ok(u32::MAX) => Err(NoId::Reserved),
        Ok(id) => Ok(id),
        Err(_) => Err(NoId::TooLarge),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
        \n\
        libvirt-qemu\n\
        libvirt-qemu:x:many:104::/:\n\
        libvirt-qemu:x:64055:none::/:\n\
        libvirt-qemu:x:64055:104:Libvirt Qemu,,,:/var/lib/libvirt:/usr/sbin/nologin\n\
        libvirt-qemu:x:1:1::/:\n\
        #hash:x:2:2::/:\n\
        +:x:3:3::/:\n\
        -minus:x:4:4::/:\n\
        1000:x:5:6::/:\n\
        huge:x:4294967296:0::/:\n\
        nobody:x:4294967295:0::/:\n\
        short:x:7:8\n\
        :x:9:9::/:";
    const GROUP: &str =
        "root:x:0:\nkvm:x:104:libvirt-qemu\nbroken:x\nlibvirt-qemu:x:64055:\n1000:x:6:\nbare:x:10";

    #[test]
    fn users_and_groups_are_found_as_libvirt_finds_them() {
        let accounts = Accounts::new(PASSWD, GROUP);
        for (text, uid, gid) in [
            ("root", Ok(0), Ok(0)),
            ("libvirt-qemu", Ok(64055), Ok(64055)),
            ("kvm", Err(NoId::Unknown), Ok(104)),
            ("bare", Err(NoId::Unknown), Ok(10)),
            ("short", Ok(7), Err(NoId::Unknown)),
            // A name that is a number is a name first.
            ("1000", Ok(5), Ok(6)),
            ("+1000", Ok(1000), Ok(1000)),
            ("1001", Ok(1001), Ok(1001)),
            ("+0", Ok(0), Ok(0)),
            ("007", Ok(7), Ok(7)),
            ("4294967294", Ok(4_294_967_294), Ok(4_294_967_294)),
            ("4294967295", Err(NoId::Reserved), Err(NoId::Reserved)),
            ("+4294967295", Err(NoId::Reserved), Err(NoId::Reserved)),
            ("+4294967296", Err(NoId::TooLarge), Err(NoId::TooLarge)),
            ("+18446744073709551616", Err(NoId::TooLarge), Err(NoId::TooLarge)),
            ("99999999999999999999999", Err(NoId::TooLarge), Err(NoId::TooLarge)),
            ("", Err(NoId::Empty), Err(NoId::Empty)),
            ("+", Err(NoId::NotANumber), Err(NoId::NotANumber)),
            ("++1", Err(NoId::NotANumber), Err(NoId::NotANumber)),
            ("+-1", Err(NoId::NotANumber), Err(NoId::NotANumber)),
            ("+root", Err(NoId::NotANumber), Err(NoId::NotANumber)),
            ("+0\n", Err(NoId::NotANumber), Err(NoId::NotANumber)),
            ("-1", Err(NoId::Unknown), Err(NoId::Unknown)),
            (" 0", Err(NoId::Unknown), Err(NoId::Unknown)),
            ("root\n", Err(NoId::Unknown), Err(NoId::Unknown)),
            ("root\0", Err(NoId::Unknown), Err(NoId::Unknown)),
            ("root:x", Err(NoId::Unknown), Err(NoId::Unknown)),
            ("٣", Err(NoId::Unknown), Err(NoId::Unknown)),
            ("broken", Err(NoId::Unknown), Err(NoId::Unknown)),
            ("huge", Err(NoId::Unknown), Err(NoId::Unknown)),
            ("nobody", Err(NoId::Unknown), Err(NoId::Unknown)),
            ("#hash", Err(NoId::Unknown), Err(NoId::Unknown)),
            ("-minus", Err(NoId::Unknown), Err(NoId::Unknown)),
        ] {
            assert_eq!(accounts.uid(text), uid, "user {text:?}");
            assert_eq!(accounts.gid(text), gid, "group {text:?}");
        }
    }

    #[test]
    fn a_user_has_a_primary_group() {
        let accounts = Accounts::new(PASSWD, GROUP);
        for (user, gid) in [("root", Some(0)), ("libvirt-qemu", Some(104)), ("kvm", None), ("+", None)] {
            assert_eq!(accounts.primary_gid(user), gid, "{user}");
        }
        assert_eq!(Accounts::new("", "").uid("root"), Err(NoId::Unknown), "missing files know nobody");
    }
}
