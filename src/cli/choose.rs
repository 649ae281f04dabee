//! What a type is on this host: a mediated device, made at start wherever there is room; or, of NVIDIA's vendor VFIO, a
//! virtual function, which has to be chosen now, as libvirt wants its address in the definition.

use clap::Args;

use crate::backend::{self, Backend, nvidia};
use crate::cli::definition::{self, Opens};
use crate::domain::{Attribute, Placement, Wanted};
use crate::host::{Host, Trouble, see};
use crate::ids::{AttributeName, DeviceId, DomainUuid, Malformed, MdevUuid, Parent, PciAddress, TypeWish};
use crate::placement::{self, Taken};
use crate::plan;
use crate::record::Records;
use crate::refusal::{Clue, Refusal};
use crate::request::Request;
use crate::seen::{Offer, Share, Sight};
use crate::words::{list, nearest, printable};

/// The end of a hint: the type may be one all the same.
pub(super) const UNLISTED: &str = "What does not fit now is not listed";

/// The API of nearly all types; also where a driver does not say.
pub(super) const USUAL_API: &str = "vfio-pci";

/// Which device of a type a person asks for.
#[derive(Debug, Clone, Args)]
pub struct Which {
    /// On this one; of several, the first with room
    #[arg(long = "parent", value_name = "PARENT", value_parser = parsed(Parent::parse))]
    pub parents: Vec<Parent>,
    /// Of the driver; several: in this order
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = attribute)]
    pub attributes: Vec<Attribute>,
    /// The fullest card that fits, or the emptiest
    #[arg(long, value_name = "pack|spread", value_parser = placement)]
    pub placement: Option<Placement>,
    /// Only on parents of this NUMA node
    #[arg(long, value_name = "NODE")]
    pub numa: Option<u32>,
}

impl Which {
    /// The same as a domain's metadata would have it.
    pub(super) fn wanted(&self, wish: &TypeWish) -> Wanted {
        Wanted {
            uuid: None,
            wish: wish.clone(),
            parents: self.parents.clone(),
            placement: self.placement,
            numa: self.numa,
            keep: false,
            relocate: false,
            attached: false,
            attributes: self.attributes.clone(),
            arguments: Vec::new(),
        }
    }
}

/// One of our own types, as clap wants its parser.
pub(super) fn parsed<T: Clone + Send + Sync + 'static>(
    parse: fn(&str) -> Result<T, Malformed>,
) -> impl Fn(&str) -> Result<T, Malformed> + Clone + Send + Sync + 'static {
    parse
}

fn attribute(text: &str) -> Result<Attribute, String> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    let name = AttributeName::parse(name).map_err(|bad| bad.to_string())?;
    Ok(Attribute { name, value: Attribute::parse_value(value)? })
}

fn placement(text: &str) -> Result<Placement, &'static str> {
    Placement::parse(text).ok_or("must be pack or spread")
}

#[derive(Debug)]
pub(super) enum Chosen {
    /// `full`: there is no room at present, which is no reason not to write it down.
    Mdev {
        model: String,
        full: bool,
    },
    Functions(Vec<PciAddress>),
}

/// `xml`: the domain's; `count`: how many are needed.
pub(super) fn choose(
    host: &Host,
    xml: &str,
    wanted: &Wanted,
    count: usize,
    default: Placement,
) -> Result<Chosen, Refusal> {
    let functions = functions(host, &wanted.parents, &wanted.wish)?;
    // A card may be named as well as a function of it.
    if !wanted.parents.is_empty() && !functions.is_empty() {
        return among(host, xml, wanted, &functions, count, default).map(Chosen::Functions);
    }
    let refusal = match mdev(host, wanted) {
        Ok(chosen) => return Ok(chosen),
        Err(refusal) if functions.is_empty() => return Err(refusal),
        Err(refusal) => refusal,
    };
    among(host, xml, wanted, &functions, count, default)
        .map(Chosen::Functions)
        .map_err(|other| both(refusal, other))
}

/// What is written where this host does not offer it. `None`: it cannot be written, for want of an address: where functions
/// take types there, a mediated device of one would never start.
pub(super) fn unseen(host: &Host, wanted: &Wanted, count: usize) -> Option<Chosen> {
    let named = wanted.parents.iter().filter_map(|parent| PciAddress::parse(&parent.to_string()).ok());
    let named: Vec<PciAddress> = named.filter(|address| nvidia::is_vgpu(host, address)).collect();
    let takes_types = || functions(host, &wanted.parents, &wanted.wish);
    if !named.is_empty() || takes_types().is_ok_and(|functions| !functions.is_empty()) {
        let enough = named.len() >= count;
        return enough.then(|| Chosen::Functions(named.into_iter().take(count).collect()));
    }
    let parent = wanted.parents.first().map(ToString::to_string).unwrap_or_default();
    let model = match (parent.as_str(), Clue::of_type(&wanted.wish)) {
        ("matrix", _) | (_, Some(Clue::VfioAp)) => "vfio-ap",
        // `0.0.0313`, of a channel subsystem.
        (css, _) if css.split('.').count() == 3 => "vfio-ccw",
        (_, Some(Clue::VfioCcw)) => "vfio-ccw",
        _ => USUAL_API,
    };
    Some(Chosen::Mdev { model: model.to_owned(), full: false })
}

/// Judged as a start judges it, but for what room there is.
fn mdev(host: &Host, wanted: &Wanted) -> Result<Chosen, Refusal> {
    let request = Request {
        device: DeviceId::Mdev(placeholder()?),
        wanted: Some(wanted.clone()),
        model: None,
        opened: true,
        managed: false,
    };
    let nobody = DomainUuid::parse(PLACEHOLDER).map_err(|bad| impossible(&bad))?;
    let seen = see::see(host, &Records::new(host), &nobody, std::slice::from_ref(&request), false)?;
    let sight = seen.sights.into_iter().next().unwrap_or_default();
    // A person who has just named a parent is told that it is not there, and of nothing that might take its place.
    let sight = Sight { elsewhere: Vec::new(), ..sight };
    let offers = plan::fitting(&request, wanted, &sight)?;
    let api = offers.iter().map(|offer| offer.api.as_str()).find(|api| !api.is_empty());
    Ok(Chosen::Mdev {
        model: api.unwrap_or(USUAL_API).to_owned(),
        full: offers.iter().all(|offer| offer.free == Some(0)),
    })
}

/// No device and no domain has it: what is looked at is the host.
const PLACEHOLDER: &str = "ffffffff-ffff-ffff-ffff-ffffffffffff";

fn placeholder() -> Result<MdevUuid, Refusal> {
    MdevUuid::parse(PLACEHOLDER).map_err(|bad| impossible(&bad))
}

fn impossible(bad: &dyn std::fmt::Display) -> Refusal {
    Refusal::Io { what: format!("cannot look for {PLACEHOLDER}"), why: bad.to_string() }
}

/// The functions that take types: all, or those that are named, or whose card is.
fn functions(host: &Host, named: &[Parent], wish: &TypeWish) -> Result<Vec<Parent>, Trouble> {
    let mut functions = nvidia::parents(host)?;
    functions.retain(|function| {
        let is_card = |named: &Parent| named.to_string() == card(host, function, wish);
        named.is_empty() || named.contains(function) || named.iter().any(is_card)
    });
    Ok(functions)
}

fn card(host: &Host, function: &Parent, wish: &TypeWish) -> String {
    backend::card(host, &nvidia::place(function, wish.as_id()))
}

/// Free functions for the domain, each card's in the order of the placement.
fn among(
    host: &Host,
    xml: &str,
    wanted: &Wanted,
    functions: &[Parent],
    count: usize,
    default: Placement,
) -> Result<Vec<PciAddress>, Refusal> {
    let mut offers = Vec::new();
    for function in functions {
        match nvidia::offers(host, function, &wanted.wish) {
            Ok(found) => offers.extend(found),
            // One card whose driver answers nonsense is no reason against another.
            Err(trouble) => log::warn!("{function} is left out: {trouble}"),
        }
    }
    let best = offers.iter().map(|offer| offer.fit).min();
    offers.retain(|offer| Some(offer.fit) == best);
    if offers.is_empty() {
        return Err(none(host, wanted, functions)?);
    }
    if let Some(numa) = wanted.numa {
        let elsewhere = offers.iter().map(|offer| offer.place.parent.to_string()).collect();
        offers.retain(|offer| offer.numa == Some(numa));
        if offers.is_empty() {
            return Err(Refusal::NotOnNode { wish: wanted.wish.clone(), numa, elsewhere });
        }
    }
    let (mut free, mut assigned) = (Vec::new(), Vec::new());
    let own = Opens::of(xml.as_bytes(), "the domain itself").ok();
    let others = definition::opens(host)?;
    let records = Records::new(host);
    for offer in offers {
        let Ok(address) = PciAddress::parse(&offer.place.parent.to_string()) else { continue };
        let device = DeviceId::Vf(address);
        let has = |domain: &&Opens| domain.devices.contains(&device);
        if let Some(domain) = own.iter().chain(&others).find(has) {
            assigned.push(domain.name.clone());
        } else if records.is_free(&device, None)?
            && nvidia::free(host, &offer.place).is_ok_and(|free| free > 0)
        {
            free.push(offer);
        }
    }
    let mut taken = Taken::new();
    let mut chosen = Vec::new();
    while chosen.len() < count {
        let mut ordered = placement::order(&free, wanted.placement.unwrap_or(default), &taken);
        // As for a start: the person's own order goes first.
        ordered.sort_by_key(|offer| wanted.parents.iter().position(|named| is_of(offer, named)));
        let Some(best) = ordered.first() else {
            return Err(too_few(host, wanted, functions, &free, assigned, count));
        };
        *taken.entry(best.place.clone()).or_default() += 1;
        chosen.extend(PciAddress::parse(&best.place.parent.to_string()).ok());
    }
    Ok(chosen)
}

fn is_of(offer: &Offer, named: &Parent) -> bool {
    offer.place.parent == *named || offer.card == named.to_string()
}

/// Why no function offers the type. It lists only what fits now, so a type of a card that is in use may be one all the
/// same.
fn none(host: &Host, wanted: &Wanted, functions: &[Parent]) -> Result<Refusal, Trouble> {
    let (mut known, mut holders): (Vec<String>, Vec<Share>) = (Vec::new(), Vec::new());
    let mut cards: Vec<Parent> = Vec::new();
    for function in functions {
        known.extend(Backend::Nvidia.known(host, function).unwrap_or_default());
        let Ok(card) = Parent::parse(&card(host, function, &wanted.wish)) else { continue };
        if !cards.contains(&card) {
            holders.extend(see::holders(
                host,
                &Records::new(host),
                &nvidia::place(function, wanted.wish.as_id()),
            )?);
            cards.push(card);
        }
    }
    known.sort();
    known.dedup();
    let meant = meant(wanted, &known);
    if !holders.is_empty() {
        let held = plan::held_by(&holders.iter().collect::<Vec<_>>());
        let left = format!("not creatable there now, functions are held by {held}");
        let hint = meant.map(|meant| format!("did you mean \"{meant}\"? {UNLISTED}"));
        return Ok(Refusal::NoRoom { what: what(wanted), place: list(&cards), left, hint });
    }
    Ok(Refusal::NoSuchType { wish: wanted.wish.clone(), parents: cards, known, meant, clue: None })
}

fn too_few(
    host: &Host,
    wanted: &Wanted,
    functions: &[Parent],
    free: &[Offer],
    mut assigned: Vec<String>,
    count: usize,
) -> Refusal {
    let place = match wanted.parents.as_slice() {
        [] => {
            let cards = functions
                .iter()
                .filter_map(|function| Parent::parse(&card(host, function, &wanted.wish)).ok());
            let mut cards: Vec<Parent> = cards.collect();
            cards.dedup();
            list(&cards)
        }
        named => list(named),
    };
    let more = assigned.len();
    assigned.sort();
    assigned.dedup();
    let by = list(&assigned.iter().map(|name| printable(name)).collect::<Vec<_>>());
    let others = if more == 0 { String::new() } else { format!(", {more} in use by the definition of {by}") };
    let left = format!("{} free, {count} needed{others}", free.len());
    let hint = (!assigned.is_empty()).then(|| {
        "a function stays with the domain that has it: `virt-mdev unassign` gives one back".to_owned()
    });
    Refusal::NoRoom { what: what(wanted), place, left, hint }
}

fn what(wanted: &Wanted) -> String {
    printable(&wanted.wish.to_string()).to_string()
}

fn meant(wanted: &Wanted, known: &[String]) -> Option<String> {
    let names =
        known.iter().flat_map(|known| known.split('"').map(str::trim)).filter(|name| !name.is_empty());
    nearest(&wanted.wish.to_string(), names)
}

/// Neither as a mediated device nor as a function: one refusal, with what there is of both.
fn both(mdev: Refusal, function: Refusal) -> Refusal {
    let mdev = match mdev {
        Refusal::NotYet { refusal, .. } => *refusal,
        other => other,
    };
    match (mdev, function) {
        (
            Refusal::NoSuchType { wish, mut parents, mut known, meant, clue },
            Refusal::NoSuchType { parents: cards, known: more, meant: other, .. },
        ) => {
            parents.extend(cards);
            known.extend(more);
            Refusal::NoSuchType { wish, parents, known, meant: meant.or(other), clue }
        }
        (Refusal::NoParents { .. }, function) => function,
        (mdev @ Refusal::NoSuchType { meant: Some(_), .. }, Refusal::NoRoom { .. }) => mdev,
        // The type is there, and something else about the request is wrong.
        (Refusal::NoSuchType { .. }, function) => function,
        (mdev, _) => mdev,
    }
}
