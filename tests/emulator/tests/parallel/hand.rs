//! Devices that somebody makes and removes by hand: they are nobody's business but that somebody's.

use crate::Wrong;
use crate::domains::{Dice, Wanted, device_uuid};
use crate::eyes::{Eyes, Sight};
use crate::oracle::{Is, Oracle};

/// What an administrator writes, and where, to make a device of this id.
fn kinds(eyes: &Eyes, fresh: &str) -> Vec<(String, String, Wanted)> {
    let wanted = |id: &str, kind: &'static str, pool: &'static str, cost: u32| {
        let (id, more) = (id.to_owned(), String::new());
        Wanted { id, wish: kind, kind, pool, cost, more, attribute: None }
    };
    let create =
        |parent: &str, kind: &str| format!("sys/class/mdev_bus/{parent}/mdev_supported_types/{kind}/create");
    let free = |parent: &&String| {
        let file = format!("sys/class/mdev_bus/{parent}/mdev_supported_types/nvidia-699/available_instances");
        eyes.text(&file).is_some_and(|free| free != "0")
    };
    let parents = eyes.names("sys/class/mdev_bus");
    let mut kinds = vec![
        (create("mtty", "mtty-1"), fresh.to_owned(), wanted(fresh, "mtty-1", "mtty", 1)),
        (create("0.0.0313", "vfio_ccw-io"), fresh.to_owned(), wanted(fresh, "vfio_ccw-io", "ccw", 1)),
        (
            "sys/bus/pci/devices/0000:86:00.0/mdev_create".to_owned(),
            format!("{fresh}:vgpu_type_id=11,vm_uuid={fresh}"),
            wanted(fresh, "11", "m60", 1),
        ),
        (
            "sys/bus/pci/devices/0000:41:00.7/nvidia/current_vgpu_type".to_owned(),
            "1145".to_owned(),
            wanted("0000:41:00.7", "1145", "l40s", 1),
        ),
    ];
    if let Some(function) = parents.iter().filter(|parent| parent.starts_with("0000:81:")).find(free) {
        let path = create(function, "nvidia-699");
        kinds.push((path, fresh.to_owned(), wanted(fresh, "nvidia-699", "a16", 1)));
    }
    kinds
}

/// Makes one, where there is room: with a uuid of its own, or with one that a domain wants that is off.
pub(crate) fn make(oracle: &mut Oracle, eyes: &Eyes, dice: &mut Dice, before: &Sight) {
    let fresh = device_uuid(0x100 + dice.below(0xef00));
    let first = device_uuid(1);
    let wants = |id: &str| {
        let domains = oracle.domains.iter();
        domains
            .filter(|domain| domain.wanted.iter().any(|wanted| wanted.id == id))
            .all(|domain| domain.is == Is::Off)
    };
    let (path, text, wanted) = if dice.percent(40) && wants(&first) && !before.claims.contains_key(&first) {
        // Of the type that the domain wants, or of another.
        let (kind, cost) = if dice.percent(70) { ("mtty-2", 2) } else { ("mtty-1", 1) };
        let path = format!("sys/class/mdev_bus/mtty/mdev_supported_types/{kind}/create");
        let (id, more) = (first.clone(), String::new());
        (path, first, Wanted { id, wish: kind, kind, pool: "mtty", cost, more, attribute: None })
    } else {
        dice.pick(&kinds(eyes, &fresh)).clone()
    };
    let id = wanted.id.clone();
    // No room, or it is there already: then he does without.
    if !oracle.foreign.contains_key(&id)
        && eyes.write(&path, &text).is_ok()
        && let Some(device) = eyes.devices().remove(&id)
    {
        oracle.foreign.insert(id, (wanted, device));
    }
}

/// Removes one that no domain uses.
pub(crate) fn remove(oracle: &mut Oracle, eyes: &Eyes, dice: &mut Dice, before: &Sight) -> Result<(), Wrong> {
    let held = |id: &String| {
        let holding = oracle.domains.iter().filter(|domain| !domain.holders.is_empty());
        holding.flat_map(|domain| &domain.wanted).any(|wanted| wanted.id == *id)
    };
    let unused = |id: &&String| !before.claims.contains_key(*id) && !held(id);
    let free: Vec<String> = oracle.foreign.keys().filter(unused).cloned().collect();
    if free.is_empty() {
        return Ok(());
    }
    let id = dice.pick(&free).clone();
    let Some((wanted, _)) = oracle.foreign.remove(&id) else { return Ok(()) };
    match wanted.pool {
        "l40s" => eyes.write(&format!("sys/bus/pci/devices/{id}/nvidia/current_vgpu_type"), "0"),
        "m60" => {
            let made = format!("{id}:vgpu_type_id=11,vm_uuid={id}");
            eyes.write("sys/bus/pci/devices/0000:86:00.0/mdev_destroy", &made)
        }
        _ => eyes.write(&format!("sys/bus/mdev/devices/{id}/remove"), "1"),
    }
}
