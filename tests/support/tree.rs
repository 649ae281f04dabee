//! A host as a directory tree, laid out as sysfs lays it out, for what only reads. Nothing happens in it: a write to
//! `create` makes no device here. What writes is tested on the real host.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use toml::{Table, Value};
use virt_mdev::host::Host;

pub struct Tree {
    root: tempfile::TempDir,
}

fn text<'a>(table: &'a Table, key: &str) -> Option<&'a str> {
    table.get(key).map(|value| value.as_str().unwrap_or_else(|| panic!("{key} must be text")))
}

fn tables<'a>(table: &'a Table, key: &str) -> Vec<&'a Table> {
    let array = table.get(key).and_then(Value::as_array);
    array.into_iter().flatten().map(|value| value.as_table().expect(key)).collect()
}

impl Tree {
    /// The host that `description` names in `hosts`, with what it adds.
    pub fn build(hosts: &Path, description: &Table) -> Self {
        let tree = Self { root: tempfile::tempdir().unwrap() };
        for directory in ["sys/class", "sys/bus/mdev/devices", "run", "etc"] {
            fs::create_dir_all(tree.path(directory)).unwrap();
        }
        if let Some(name) = text(description, "host") {
            let base: Table =
                fs::read_to_string(hosts.join(format!("{name}.toml"))).unwrap().parse().unwrap();
            tree.add(&base);
        }
        tree.add(description);
        tree
    }

    pub fn host(&self) -> Host {
        Host::at(self.root.path())
    }

    pub fn root_text(&self) -> String {
        self.root.path().display().to_string()
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.root.path().join(relative)
    }

    pub fn write(&self, relative: &str, content: &str) {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn link(&self, relative: &str, target: &str) {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    fn add(&self, description: &Table) {
        for parent in tables(description, "parent") {
            self.add_parent(parent);
        }
        for card in tables(description, "proposal") {
            let directory = format!("sys/bus/pci/devices/{}", text(card, "name").unwrap());
            self.write(&format!("{directory}/mdev_supported_types"), text(card, "table").unwrap());
            self.write(&format!("{directory}/mdev_create"), "");
            self.write(&format!("{directory}/mdev_destroy"), "");
        }
        for function in tables(description, "function") {
            self.add_function(function);
        }
        // A device that offers nothing.
        for idle in tables(description, "idle") {
            let (name, bus) = (text(idle, "name").unwrap(), text(idle, "bus").unwrap_or("pci"));
            let directory = format!("sys/bus/{bus}/devices/{name}");
            fs::create_dir_all(self.path(&directory)).unwrap();
            if let Some(driver) = text(idle, "driver") {
                self.link(&format!("{directory}/driver"), &format!("../../drivers/{driver}"));
            }
            if let Some(functions) = idle.get("functions") {
                self.write(&format!("{directory}/sriov_totalvfs"), &format!("{functions}\n"));
                self.write(&format!("{directory}/sriov_numvfs"), "0\n");
            }
            // A channel device lies in its subchannel's directory.
            if let Some(device) = text(idle, "device") {
                fs::create_dir_all(self.path(&format!("sys/devices/css0/{name}/{device}"))).unwrap();
                let target = format!("../../../devices/css0/{name}/{device}");
                self.link(&format!("sys/bus/ccw/devices/{device}"), &target);
            }
        }
        for device in tables(description, "device") {
            let get = |key| text(device, key).expect(key);
            self.add_device(get("uuid"), get("parent"), get("type"));
        }
        for file in tables(description, "file") {
            self.write(text(file, "path").unwrap(), text(file, "text").unwrap());
        }
        for domain in tables(description, "record") {
            self.add_record(domain);
        }
        for node in tables(description, "node") {
            self.add_node(node);
        }
        if let Some(config) = text(description, "config") {
            self.write("etc/virt-mdev/config.toml", config);
        }
    }

    fn add_parent(&self, parent: &Table) {
        let name = text(parent, "name").unwrap();
        let directory = format!("sys/devices/{name}");
        self.link(&format!("sys/class/mdev_bus/{name}"), &format!("../../devices/{name}"));
        fs::create_dir_all(self.path(&directory)).unwrap();
        if let Some(numa) = parent.get("numa") {
            self.write(&format!("{directory}/numa_node"), &format!("{numa}\n"));
        }
        if let Some(card) = text(parent, "physfn") {
            self.link(&format!("{directory}/physfn"), &format!("../{card}"));
            self.add_function_of(card, name);
        }
        for kind in tables(parent, "type") {
            let id = text(kind, "id").unwrap();
            let directory = format!("{directory}/mdev_supported_types/{id}");
            fs::create_dir_all(self.path(&format!("{directory}/devices"))).unwrap();
            self.write(&format!("{directory}/create"), "");
            self.write(
                &format!("{directory}/device_api"),
                &format!("{}\n", text(kind, "api").unwrap_or("vfio-pci")),
            );
            let free = kind.get("free").map(|free| free.to_string().trim_matches('"').to_owned());
            self.write(&format!("{directory}/available_instances"), &format!("{}\n", free.unwrap()));
            for file in ["name", "description"] {
                if let Some(content) = text(kind, file) {
                    self.write(&format!("{directory}/{file}"), &format!("{content}\n"));
                }
            }
        }
    }

    /// The nodes of a device: its group's, and its own where `own` names it.
    fn add_node(&self, node: &Table) {
        let directory = format!("sys/bus/mdev/devices/{}", text(node, "uuid").unwrap());
        let group = node.get("group").and_then(Value::as_integer).unwrap();
        self.link(&format!("{directory}/iommu_group"), &format!("../../../kernel/iommu_groups/{group}"));
        let mut nodes = vec![format!("dev/vfio/{group}")];
        if let Some(own) = text(node, "own") {
            fs::create_dir_all(self.path(&format!("{directory}/vfio-dev/{own}"))).unwrap();
            nodes.push(format!("dev/vfio/devices/{own}"));
        }
        for node in nodes {
            self.write(&node, "");
            fs::set_permissions(self.path(&node), PermissionsExt::from_mode(0o600)).unwrap();
        }
    }

    /// A virtual function of NVIDIA's vendor VFIO.
    fn add_function(&self, function: &Table) {
        let (name, card) = (text(function, "name").unwrap(), text(function, "physfn").unwrap());
        let directory = format!("sys/bus/pci/devices/{name}");
        self.write(&format!("{directory}/nvidia/creatable_vgpu_types"), text(function, "creatable").unwrap());
        let current = text(function, "current").unwrap_or("0");
        self.write(&format!("{directory}/nvidia/current_vgpu_type"), &format!("{current}\n"));
        self.link(&format!("{directory}/physfn"), &format!("../{card}"));
        self.add_function_of(card, name);
    }

    /// A card with its vendor's driver leads to each of its virtual functions.
    fn add_function_of(&self, card: &str, function: &str) {
        let directory = format!("sys/devices/{card}");
        if !self.path(&directory).exists() {
            self.link(&format!("sys/bus/pci/devices/{card}"), &format!("../../../devices/{card}"));
            self.link(&format!("{directory}/driver"), "../../bus/pci/drivers/nvidia");
        }
        let number = function.rsplit_once('.').unwrap().1;
        self.link(&format!("{directory}/virtfn{number}"), &format!("../{function}"));
    }

    fn add_device(&self, uuid: &str, parent: &str, kind: &str) {
        let directory = format!("sys/devices/{parent}/{uuid}");
        fs::create_dir_all(self.path(&directory)).unwrap();
        self.link(&format!("{directory}/mdev_type"), &format!("../mdev_supported_types/{kind}"));
        self.link(
            &format!("sys/devices/{parent}/mdev_supported_types/{kind}/devices/{uuid}"),
            &format!("../../../{uuid}"),
        );
        self.link(&format!("sys/bus/mdev/devices/{uuid}"), &format!("../../../devices/{parent}/{uuid}"));
    }

    /// A record with its claims, as an earlier prepare of that domain has left it.
    fn add_record(&self, record: &Table) {
        let (name, uuid) = (text(record, "name").unwrap(), text(record, "uuid").unwrap());
        let phase = text(record, "phase").unwrap_or("running");
        let mut steps = Vec::new();
        for device in tables(record, "device") {
            let get = |key| text(device, key).expect(key);
            let keep = device.get("keep").and_then(Value::as_bool).unwrap_or(false);
            let made = device.get("made").and_then(Value::as_bool).unwrap_or(true);
            let mut step = serde_json::json!({
                "do": if made { "create" } else { "use" }, "device": get("uuid"),
                "backend": text(device, "backend").unwrap_or("mdev"),
                "parent": get("parent"), "type": get("type"),
            });
            if made {
                step["keep"] = keep.into();
            }
            let state = if phase == "kept" { "kept" } else { "done" };
            steps.push(serde_json::json!({ "step": step, "state": state }));
            if !device.contains_key("backend") {
                self.add_device(get("uuid"), get("parent"), get("type"));
            }
            self.link(&format!("run/virt-mdev/devices/{}", get("uuid")), uuid);
        }
        let json = serde_json::json!({
            "version": 1, "domain": { "uuid": uuid, "name": name }, "phase": phase, "steps": steps,
        });
        self.write(&format!("run/virt-mdev/domains/{uuid}.json"), &json.to_string());
    }

    /// Every path with its content, to see that nothing has changed.
    pub fn listing(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut directories = vec![self.root.path().to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let kind = fs::symlink_metadata(&path).unwrap().file_type();
                let content = if kind.is_symlink() {
                    fs::read_link(&path).unwrap().display().to_string()
                } else if kind.is_dir() {
                    directories.push(path.clone());
                    String::new()
                } else {
                    fs::read_to_string(&path).unwrap()
                };
                lines.push(format!("{}: {content}", path.display()));
            }
        }
        lines.sort();
        lines
    }
}
