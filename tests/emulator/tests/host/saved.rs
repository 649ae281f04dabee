//! A host that is again as it was.

use super::{CREATE, UUID, end, hold, host, says};

#[test]
fn programs_see_what_was_saved_at_once() {
    let mut host = host("mtty", &[]);
    let look = "find /run/d /run/e /etc/mdevctl.d /dev/vfio -printf '%p %y %m %s %n %l\\n' | sort; \
                cat /run/d/a /run/d/link /etc/mdevctl.d/f; ls /sys/bus/mdev/devices; \
                cat /sys/class/mdev_bus/mtty/mdev_supported_types/mtty-2/available_instances";
    says(
        &host,
        &format!(
            "mkdir -p /run/d/below; echo one >/run/d/a; ln -s a /run/d/link; echo 1 >/etc/mdevctl.d/f; \
             echo {UUID} >{CREATE}; chmod 640 /dev/vfio/0"
        ),
    );
    let (before, word) = (says(&host, look), host.lines("fingerprint").unwrap());
    assert_eq!(host.lines("fingerprint").unwrap(), word);
    host.control("save here").unwrap();
    // Whatever the kernel remembers of names and attributes is what it has just been told of the other state.
    let changes = [
        "rm /run/d/a".to_owned(),
        "echo three >/run/d/a".to_owned(),
        "echo other >/run/d/n; mv /run/d/n /run/d/a".to_owned(),
        "chmod 600 /run/d/a; chmod 700 /run/d/below".to_owned(),
        "rm -r /run/d; mkdir /run/d /run/e; echo two >/run/e/a; ln -s /run/e/a /run/d/link".to_owned(),
        "ln -sfn nowhere /run/d/link; ln /run/d/a /run/d/twice".to_owned(),
        "rmdir /run/d/below; echo >/run/d/below".to_owned(),
        "chmod 600 /dev/vfio/0; echo 22 >>/etc/mdevctl.d/f".to_owned(),
        format!("echo 1 >/sys/bus/mdev/devices/{UUID}/remove"),
        format!("echo {} >{CREATE}", UUID.replace("1001", "1002")),
    ];
    for change in &changes {
        assert_eq!(says(&host, change), "", "{change}");
        let other = says(&host, look);
        assert_ne!(other, before, "{change}");
        assert_ne!(host.lines("fingerprint").unwrap(), word, "{change}");
        host.control("save there").unwrap();
        for _ in 0..2 {
            host.control("load here").unwrap();
            assert_eq!(says(&host, look), before, "{change}");
            assert_eq!(host.lines("fingerprint").unwrap(), word, "{change}");
            host.control("load there").unwrap();
            assert_eq!(says(&host, look), other, "{change}");
        }
        host.control("load here").unwrap();
    }
    let qemu = hold(&host, "/dev/vfio/0");
    assert!(host.control("load here").unwrap_err().to_string().contains("a node open"));
    end(qemu);
    host.control("load here").unwrap();
    end(hold(&host, "/dev/vfio/0"));
    assert!(host.control("load nowhere").is_err());
}
