//! libvirt's own `qemu.conf`: text → [`QemuConf`], the part of it that decides whether QEMU can open a node.

mod reader;

use std::collections::HashSet;

use reader::{Setting, Value};

/// Where it lies, below the host's root.
pub const PATH: &str = "etc/libvirt/qemu.conf";

/// What libvirt allows every domain where `cgroup_device_acl` is not set (`defaultDeviceACL`, src/qemu/qemu_cgroup.c).
/// A path that the host does not have is harmless: libvirt passes over it.
const DEFAULT_DEVICES: [&str; 8] = [
    "/dev/null",
    "/dev/full",
    "/dev/zero",
    "/dev/random",
    "/dev/urandom",
    "/dev/ptmx",
    "/dev/kvm",
    // Newer versions only.
    "/dev/userfaultfd",
];

/// What `qemu.conf` says, every setting with libvirt's default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuConf {
    /// Whom QEMU runs as: a name, a number or `+number`. `None`: what the distribution chose when it built libvirt.
    pub user: Option<String>,
    /// Likewise; built in by itself, not the user's own group.
    pub group: Option<String>,
    /// Whether libvirt gives nodes to QEMU's user.
    pub dynamic_ownership: bool,
    /// Whether QEMU sees only those nodes of `/dev` that libvirt makes for it.
    pub namespaces: bool,
    /// `cgroup_device_acl`: nodes that every domain has, in the file's order, instead of [`DEFAULT_DEVICES`].
    pub device_acl: Option<Vec<String>>,
    /// Whether libvirt lets a domain open only the devices that it knows of.
    pub cgroup_devices: bool,
}

impl Default for QemuConf {
    fn default() -> Self {
        Self {
            user: None,
            group: None,
            dynamic_ownership: true,
            namespaces: true,
            device_acl: None,
            cgroup_devices: true,
        }
    }
}

impl QemuConf {
    /// Reads the file's text as libvirt does; the error is `line N: …`. Settings that do not concern us are passed
    /// over.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut conf = Self::default();
        let mut seen = HashSet::new();
        for setting in reader::settings(text)? {
            // libvirt looks a setting up from the top: the first counts, and the others are not even judged.
            if seen.insert(setting.name) {
                conf.set(&setting)
                    .map_err(|must| format!("line {}: {} must be {must}", setting.line, setting.name))?;
            }
        }
        Ok(conf)
    }

    fn set(&mut self, setting: &Setting<'_>) -> Result<(), &'static str> {
        let value = &setting.value;
        match setting.name {
            "user" => self.user = Some(value.text()?.to_owned()),
            "group" => self.group = Some(value.text()?.to_owned()),
            "dynamic_ownership" => self.dynamic_ownership = value.switch()?,
            "namespaces" => self.namespaces = value.texts()?.contains(&"mount"),
            "cgroup_controllers" => self.cgroup_devices = value.texts()?.contains(&"devices"),
            "cgroup_device_acl" => {
                self.device_acl = Some(value.texts()?.into_iter().map(str::to_owned).collect());
            }
            _ => {}
        }
        Ok(())
    }

    /// Nodes that every domain has, whatever its XML says.
    pub fn devices(&self) -> Vec<&str> {
        match &self.device_acl {
            Some(acl) => acl.iter().map(String::as_str).collect(),
            None => DEFAULT_DEVICES.to_vec(),
        }
    }

    /// The line that allows `nodes` besides what is allowed now. It must replace the `cgroup_device_acl` that is
    /// there, if one is: of two libvirt takes the first.
    pub fn lines_for(&self, nodes: &[String]) -> String {
        let mut devices = self.devices();
        for node in nodes {
            if !devices.contains(&node.as_str()) {
                devices.push(node);
            }
        }
        let devices: Vec<_> = devices.into_iter().map(quoted).collect();
        format!("cgroup_device_acl = [ {} ]", devices.join(", "))
    }
}

/// There are no escapes: the quotes are chosen so that the text does not hold them.
fn quoted(text: &str) -> String {
    let quote = match (text.contains(['\n', '\r']), text.contains('"'), text.contains('\'')) {
        (false, false, _) => "\"",
        (false, true, false) => "'",
        _ => "\"\"\"",
    };
    format!("{quote}{text}{quote}")
}

impl Value<'_> {
    fn text(&self) -> Result<&str, &'static str> {
        if let Self::Text(text) = self { Ok(text) } else { Err("a text in quotes") }
    }

    fn switch(&self) -> Result<bool, &'static str> {
        // `-0` is not unsigned, and neither libvirt nor `parse` takes it.
        match self {
            Self::Number(number) if number.parse() == Ok(0_u64) => Ok(false),
            Self::Number(number) if number.parse() == Ok(1_u64) => Ok(true),
            _ => Err("0 or 1"),
        }
    }

    fn texts(&self) -> Result<Vec<&str>, &'static str> {
        const MUST: &str = "a list of texts in quotes";
        let Self::List(values) = self else { return Err(MUST) };
        values.iter().map(|value| value.text().map_err(|_| MUST)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(items: &[&str]) -> Vec<String> {
        items.iter().map(ToString::to_string).collect()
    }

    /// Each of these was put to libvirt's own `virConfReadString` (9.0), with the same result; it refuses only a file
    /// of nothing but blanks.
    #[test]
    fn values_are_taken_as_libvirt_takes_them() {
        let default = QemuConf::default();
        let user = |user: &str| QemuConf { user: Some(user.to_owned()), ..default.clone() };
        let acl = |nodes: &[&str]| QemuConf { device_acl: Some(texts(nodes)), ..default.clone() };
        let unconfined = QemuConf { namespaces: false, ..default.clone() };
        for (text, expected) in [
            ("", default.clone()),
            ("\n \t\n", default.clone()),
            ("# user = \"root\"\n#\n", default.clone()),
            ("user = \"qemu\"", user("qemu")),
            ("user=\"qemu\" # \"other\"\n", user("qemu")),
            ("\t user\t=\t'+64055' ;  \n", user("+64055")),
            ("user = \"it's # no comment\"\r\n", user("it's # no comment")),
            ("user = '\"'", user("\"")),
            ("user = \"\\n\"", user("\\n")),
            ("user = \"\"", user("")),
            ("user = \"\"\"a\n\"b\"c\"\"\"\n", user("a\n\"b\"c")),
            ("user = \"first\"\nuser = \"second\"\nuser = 3\n", user("first")),
            ("user = \"a\";group='b'", QemuConf { group: Some("b".to_owned()), ..user("a") }),
            ("max_core = \"unlimited\"\nx = [ 1, [ -2 ], 'a' ]\nuser = \"a\"\ny=+3", user("a")),
            ("dynamic_ownership = 0", QemuConf { dynamic_ownership: false, ..default.clone() }),
            ("dynamic_ownership = +01", default.clone()),
            ("namespaces = [ ]", unconfined.clone()),
            ("namespaces = [\n\n]", unconfined),
            ("namespaces = [ \"mount\" ]", default.clone()),
            (
                "cgroup_device_acl = [\n\t\"/dev/null\" ,\n\n'/dev/vfio/0',\n]# end\n",
                acl(&["/dev/null", "/dev/vfio/0"]),
            ),
            ("cgroup_device_acl = []", acl(&[])),
            ("cgroup_controllers = [ \"cpu\" ]", QemuConf { cgroup_devices: false, ..default.clone() }),
            ("cgroup_controllers = [ \"cpu\", \"devices\" ]", default.clone()),
        ] {
            assert_eq!(QemuConf::parse(text).as_ref(), Ok(&expected), "{text:?}");
        }
    }

    #[test]
    fn what_libvirt_would_not_start_with_is_refused_with_its_line() {
        const VALUE: &str = "a value must be a number, a text in quotes or a list in brackets";
        const COMMENT: &str = "a comment inside a list, which libvirt does not take";
        let deep = format!("x = {}", "[".repeat(100_000));
        for (text, line, why) in [
            ("user = root", 1, VALUE),
            ("\n\nuser =\n\"root\"", 3, VALUE),
            ("user = # none", 1, VALUE),
            ("namespaces = [,]", 1, VALUE),
            ("user\n= \"root\"", 1, "no = after the setting's name"),
            ("a.b = 1", 1, "no = after the setting's name"),
            ("x = 1\n_a = 1", 2, "no setting begins like this"),
            ("a = 1;;b = 1", 1, "no setting begins like this"),
            ("\u{feff}a = 1", 1, "no setting begins like this"),
            ("user = \"a\" group = \"b\"", 1, "something follows the value"),
            ("x = 1.5", 1, "something follows the value"),
            ("user = \"\"\"\"\"\"", 1, "something follows the value"),
            ("user = \"a\nb\"", 1, "a text is not closed with its quote"),
            ("user = 'a", 1, "a text is not closed with its quote"),
            ("user = \"\"\"a\nlonger\n", 1, "a text is not closed with its quote"),
            ("x = -", 1, "a number without digits"),
            ("namespaces = [\n\"a\" \"b\" ]", 2, "no comma between the values of a list"),
            ("namespaces = [ \"a\",\n\"b\"\n", 3, "a list is not closed with ]"),
            ("namespaces = [", 1, "a list is not closed with ]"),
            ("namespaces = [ # none\n]", 1, COMMENT),
            ("namespaces = [\n\"a\", # one\n]", 2, COMMENT),
            ("namespaces = [\n\"a\" # one\n]", 2, COMMENT),
            (deep.as_str(), 1, "lists are nested too deep"),
            ("\nuser = 0", 2, "user must be a text in quotes"),
            ("group = [ \"a\" ]", 1, "group must be a text in quotes"),
            ("dynamic_ownership = \"0\"", 1, "dynamic_ownership must be 0 or 1"),
            ("dynamic_ownership = 2", 1, "dynamic_ownership must be 0 or 1"),
            ("dynamic_ownership = -0", 1, "dynamic_ownership must be 0 or 1"),
            ("namespaces = \"mount\"", 1, "namespaces must be a list of texts in quotes"),
            ("cgroup_device_acl = [ 1 ]", 1, "cgroup_device_acl must be a list of texts in quotes"),
        ] {
            assert_eq!(QemuConf::parse(text), Err(format!("line {line}: {why}")), "{text:?}");
        }
    }

    #[test]
    fn the_line_to_add_keeps_what_is_there_and_reads_back() {
        let nodes = texts(&["/dev/vfio/0", "/dev/null"]);
        assert_eq!(
            QemuConf::default().lines_for(&nodes),
            "cgroup_device_acl = [ \"/dev/null\", \"/dev/full\", \"/dev/zero\", \"/dev/random\", \"/dev/urandom\", \
             \"/dev/ptmx\", \"/dev/kvm\", \"/dev/userfaultfd\", \"/dev/vfio/0\" ]"
        );
        for there in [&[][..], &["/dev/vfio/7"], &["/dev/a\"b", "/dev/a'b", "/dev/\"'", "/dev/a\nb", "ö"]] {
            let conf = QemuConf { device_acl: Some(texts(there)), ..QemuConf::default() };
            let expected = [texts(there), nodes.clone()].concat();
            let read = QemuConf::parse(&conf.lines_for(&nodes)).unwrap();
            assert_eq!(read.device_acl, Some(expected.clone()));
            assert_eq!(read.devices(), expected, "and adding them again adds nothing");
            assert_eq!(read.lines_for(&nodes), conf.lines_for(&nodes));
        }
    }
}
