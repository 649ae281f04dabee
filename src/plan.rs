//! (requests, what is seen) → [`Plan`]: pure, and everything is judged before the first write.

mod defined;
mod room;

use serde::Serialize;

pub use room::held_by;

use crate::backend::{Backend, proposal};
use crate::domain::{Placement, Wanted};
use crate::ids::{DeviceId, DomainUuid, TypeWish};
use crate::placement::{self, Taken};
use crate::ready::Awaited;
use crate::refusal::{Clue, Maker, Refusal};
use crate::request::Request;
use crate::seen::{Existing, Offer, Seen, Sight};
use crate::step::{Place, Step};
use crate::words::{list, nearest, printable};

/// A step and why it is this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// What is done.
    #[serde(flatten)]
    pub step: Step,
    /// Why so; empty where there was nothing to choose.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// What an event does, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Planned>,
    /// What the author may not expect.
    pub notes: Vec<String>,
    /// Devices that are nobody's once they are made: mdevctl is to bring them up with their parent, and would have, had it been
    /// faster.
    #[serde(skip)]
    pub stay: Vec<DeviceId>,
}

impl Plan {
    /// The devices that it is about, each once.
    pub fn devices(&self) -> Vec<DeviceId> {
        let mut devices: Vec<DeviceId> =
            self.steps.iter().map(|planned| planned.step.device().clone()).collect();
        devices.sort();
        devices.dedup();
        devices
    }
}

/// What prepare does: all devices are created, then their attributes are written in order, then all are brought online.
pub fn prepare(
    domain: &DomainUuid,
    requests: &[Request],
    seen: &Seen,
    default: Placement,
) -> Result<Plan, Refusal> {
    let mut plan = Plan::default();
    let mut attributes = Vec::new();
    let mut online = Vec::new();
    let mut taken = Taken::new();
    for (request, sight) in requests.iter().zip(&seen.sights) {
        if let Some(owner) = &sight.owner {
            return Err(Refusal::ClaimedByOther {
                device: request.device.clone(),
                owner: owner.name.clone(),
                in_metadata: request.wanted.is_some(),
            });
        }
        if let Some(domain) = &sight.reserved {
            return Err(Refusal::Reserved { device: request.device.clone(), domain: domain.clone() });
        }
        if let (Some(existing), Some(holder)) = (&sight.existing, &sight.holder) {
            let place = Box::new(existing.place.clone());
            return Err(Refusal::Held {
                device: request.device.clone(),
                place,
                holder: holder.clone(),
                in_metadata: request.wanted.is_some(),
            });
        }
        let one = device(domain, requests, (request, sight), &seen.kept, default, &mut taken)?;
        let Some(planned) = one else { continue };
        let wanted = sight.wanted(request);
        let foreign = matches!(planned.step, Step::Use { .. });
        plan.notes.extend(defined::disagreement(request, sight, &planned.step));
        if let Some(wanted) = wanted {
            if !foreign {
                attributes.extend(wanted.attributes.iter().map(|attribute| {
                    Planned::from(Step::Attribute {
                        device: request.device.clone(),
                        name: attribute.name.clone(),
                        value: attribute.value.clone(),
                    })
                }));
            } else if !wanted.attributes.is_empty() {
                plan.notes.push(format!(
                    "the attributes of {} are not written: somebody else made the device",
                    request.device
                ));
            }
            if !request.opened {
                plan.notes.push(format!(
                    "no <hostdev> and no sysfsdev= argument names {}: the domain will not open it by itself",
                    request.device
                ));
            }
        }
        if !foreign && planned.step.place().is_some_and(|place| place.backend == Backend::Proposal) {
            online.push(Planned::from(Step::Online { device: request.device.clone() }));
        }
        if defined::stays(request, sight, &planned.step) {
            plan.stay.push(request.device.clone());
        }
        plan.steps.push(planned);
    }
    plan.steps.append(&mut attributes);
    plan.steps.append(&mut online);
    Ok(plan)
}

/// What makes one of the domain's devices, or takes up what is there; whoever else has that now is not asked. `None`: only the
/// hostdev names it, and nobody has defined it: libvirt says so, and nothing is ours to do.
pub fn device(
    domain: &DomainUuid,
    requests: &[Request],
    (request, sight): (&Request, &Sight),
    kept: &[(DeviceId, Place)],
    default: Placement,
    taken: &mut Taken,
) -> Result<Option<Planned>, Refusal> {
    if let Some(existing) = &sight.existing {
        let kept = kept.iter().find(|(device, place)| *device == request.device && existing.is_at(place));
        return found(request, existing, request.wanted.as_ref(), kept, sight.defined).map(Some);
    }
    let Some(wanted) = defined::wanted(domain, requests, request, sight)? else { return Ok(None) };
    create(domain, request, &sight.relocate(wanted), sight, default, taken)
        .map(Some)
        .map_err(|refusal| defined::with_its_file(request, sight, refusal))
}

impl From<Step> for Planned {
    fn from(step: Step) -> Self {
        Self { step, why: String::new() }
    }
}

/// The device is there already.
fn found(
    request: &Request,
    existing: &Existing,
    wanted: Option<&Wanted>,
    kept: Option<&(DeviceId, Place)>,
    defined: bool,
) -> Result<Planned, Refusal> {
    let device = request.device.clone();
    // Where the type cannot be read back, our own record knows it.
    let place = kept.map_or_else(|| existing.place.clone(), |(_, place)| place.clone());
    if let Some(wanted) = wanted {
        let name = existing.name.as_deref().or(place.name.as_deref());
        let typed = existing.typed || kept.is_some();
        // A foreign device whose type nobody can tell is used where the domain opens it, not on the metadata's word.
        let fits = (!typed && request.opened) || wanted.wish.matches(&place.kind, name).is_some();
        // One that an earlier run kept, or that a person has made here, may be on a parent in place of the named one.
        let anywhere = wanted.parents.is_empty() || wanted.relocate;
        if !fits || !(anywhere || wanted.parents.contains(&place.parent)) {
            let on = match wanted.parents.as_slice() {
                [] => String::new(),
                parents => {
                    format!(" on {}", list(parents))
                }
            };
            return Err(Refusal::OtherDevice {
                device,
                place: Box::new(place),
                wanted: format!("{}{on}", printable(&wanted.wish.to_string())),
                maker: match (kept.is_some(), defined) {
                    (true, _) => Maker::EarlierRun,
                    (false, true) => Maker::Mdevctl,
                    (false, false) => Maker::Somebody,
                },
            });
        }
    }
    check_model(request, &place, &existing.api)?;
    let keep = wanted.is_some_and(|wanted| wanted.keep);
    Ok(match kept {
        Some(_) => Step::Adopt { device, place, keep }.into(),
        None => Planned { step: Step::Use { device, place }, why: "it is there already".to_owned() },
    })
}

/// libvirt compares the two as well (`virHostdevPrepareMediatedDevices` → `virMediatedDeviceCheckModel`), but names
/// neither the type nor what to write instead.
fn check_model(request: &Request, place: &Place, api: &str) -> Result<(), Refusal> {
    match &request.model {
        Some(model) if !api.is_empty() && model != api => Err(Refusal::Model {
            device: request.device.clone(),
            model: model.clone(),
            kind: place.kind.clone(),
            parent: place.parent.clone(),
            api: api.to_owned(),
        }),
        _ => Ok(()),
    }
}

fn create(
    domain: &DomainUuid,
    request: &Request,
    wanted: &Wanted,
    sight: &Sight,
    default: Placement,
    taken: &mut Taken,
) -> Result<Planned, Refusal> {
    let offers = fitting(request, wanted, sight)?;
    let placement = wanted.placement.unwrap_or(default);
    let mut ordered = placement::order(&offers, placement, taken);
    if !wanted.parents.is_empty() {
        // The author's own order of preference; a stable sort keeps nothing else of the placement.
        ordered.sort_by_key(|offer| wanted.parents.iter().position(|parent| *parent == offer.place.parent));
    }
    let Some((best, rest)) = ordered.split_first() else {
        return Err(room::no_room(request, wanted, &offers, sight, taken));
    };
    for offer in &ordered {
        check_model(request, &offer.place, &offer.api)?;
    }
    let why = why(request, wanted, sight, placement, best, rest.len(), placement::left(best, taken));
    *taken.entry(best.place.clone()).or_default() += 1;
    let with_arguments = |offer: &Offer| Place {
        arguments: match offer.place.backend {
            Backend::Proposal => proposal::arguments(offer, domain, &wanted.arguments),
            Backend::Mdev | Backend::Nvidia => String::new(),
        },
        name: offer.name.clone(),
        ..offer.place.clone()
    };
    let place = with_arguments(best);
    if place.arguments.len() > proposal::MAX_ARGUMENTS {
        return Err(Refusal::ArgumentsTooLong {
            device: request.device.clone(),
            limit: proposal::MAX_ARGUMENTS,
        });
    }
    Ok(Planned {
        step: Step::Create {
            device: request.device.clone(),
            place,
            keep: wanted.keep,
            otherwise: rest.iter().map(|offer| with_arguments(offer)).collect(),
        },
        why,
    })
}

fn why(
    request: &Request,
    wanted: &Wanted,
    sight: &Sight,
    placement: Placement,
    best: &Offer,
    others: usize,
    left: Option<u32>,
) -> String {
    let name = best.name.as_ref().map(|name| format!("\"{}\", ", printable(name))).unwrap_or_default();
    if matches!(request.device, DeviceId::Vf(_)) {
        return format!("{name}the function that the domain passes through");
    }
    let left = left.map_or_else(|| "free places unknown".to_owned(), |left| format!("{left} left"));
    let named = request.wanted.as_ref().filter(|_| sight.relocated).map(|wanted| wanted.parents.as_slice());
    let instead = named.map(|named| {
        let named = list(named);
        format!(", in place of {named}, which this host does not have")
    });
    let reason = match (wanted.parents.as_slice(), others) {
        _ if request.wanted.is_none() => defined::source(sight),
        ([_], _) => "the parent that the domain names".to_owned(),
        ([], 0) if best.free.is_none() => "the only parent that offers it".to_owned(),
        ([], others) if best.free.is_none() => format!("one of {} whose room nobody knows", others + 1),
        ([], 0) => "the only parent that has room for it".to_owned(),
        ([], others) => {
            let (word, rank) = match placement {
                Placement::Pack => ("pack", "fullest"),
                Placement::Spread => ("spread", "emptiest"),
            };
            format!("{word}: the {rank} of {} that have room", others + 1)
        }
        (_, _) => "the first of the named parents that has room".to_owned(),
    };
    format!("{name}{left}, {reason}{}", instead.unwrap_or_default())
}

/// A refusal for want of a parent that fits: a named one may come, or, where none is named, another. `types`: what else.
fn may_come(
    request: &Request,
    wanted: &Wanted,
    sight: &Sight,
    refusal: Refusal,
    types: Option<Awaited>,
) -> Refusal {
    let by_uuid = matches!(request.device, DeviceId::Mdev(_));
    let awaited = match (sight.missing.as_slice(), wanted.parents.as_slice()) {
        // The types of one that is there may come before the other does.
        ([_, ..], _) if !sight.untyped.is_empty() => {
            let missing = sight.missing.iter().map(|(name, _)| name);
            Some(Awaited::Types(sight.untyped.iter().chain(missing).cloned().collect()))
        }
        ([_, ..], _) => Some(Awaited::Parents(sight.missing.iter().map(|(name, _)| name.clone()).collect())),
        (_, []) if by_uuid => Some(Awaited::Type { wish: wanted.wish.clone(), numa: wanted.numa }),
        _ => types,
    };
    match awaited {
        Some(awaited) => refusal.until(awaited),
        None => refusal,
    }
}

/// Why no parent has the type, where the domain names none.
fn clue(wanted: &Wanted, sight: &Sight) -> Option<Clue> {
    if !wanted.parents.is_empty() {
        return None;
    }
    let vendors = Clue::of_type(&wanted.wish);
    // Its vendor's parents are there, and have others.
    let has_others = sight.known.iter().any(|known| of_known(known) == vendors);
    match &vendors {
        // What the host's cards lack is NVIDIA's.
        Some(Clue::Nvidia) if sight.clue.is_some() => sight.clue.clone(),
        None => sight.clue.clone().filter(|_| sight.known.is_empty()),
        _ if has_others => None,
        _ => vendors,
    }
}

/// Whose type it is, as a parent offers it: `id "name"`.
fn of_known(known: &str) -> Option<Clue> {
    TypeWish::parse(known.split(' ').next().unwrap_or_default()).ok().as_ref().and_then(Clue::of_type)
}

/// The offers that come into question, with room or without, or why there are none.
pub fn fitting(request: &Request, wanted: &Wanted, sight: &Sight) -> Result<Vec<Offer>, Refusal> {
    if sight.parents.is_empty() {
        return Err(match sight.missing.first() {
            Some((parent, absent)) => {
                let missing = sight.missing.iter().map(|(parent, _)| parent.clone()).collect();
                let can_come = sight.missing.iter().any(|(parent, absent)| absent.can_come(parent));
                let (parent, absent) = (parent.clone(), absent.clone());
                let refusal =
                    Refusal::NoSuchParent { parent, absent, relocate: room::relocate(request, sight) };
                if can_come { refusal.until(Awaited::Parents(missing)) } else { refusal }
            }
            None => Refusal::NoParents { clue: clue(wanted, sight) }.until(Awaited::AnyParent),
        });
    }
    let by_uuid = matches!(request.device, DeviceId::Mdev(_));
    if let Some(offer) = sight.offers.iter().find(|offer| by_uuid && offer.place.backend == Backend::Nvidia) {
        let (device, parent) = (request.device.clone(), offer.place.parent.clone());
        return Err(Refusal::NoUuidThere { device, parent });
    }
    let takes_arguments = |offer: &&Offer| offer.place.backend == Backend::Proposal;
    if !wanted.arguments.is_empty() {
        if let Some(offer) = sight.offers.iter().find(|offer| !takes_arguments(offer)) {
            let (device, parent) = (request.device.clone(), offer.place.parent.clone());
            return Err(Refusal::NoArgumentsThere { device, parent });
        }
    }
    let Some(fit) = sight.offers.iter().map(|offer| offer.fit).min() else {
        let names =
            sight.known.iter().flat_map(|known| known.split('"').map(str::trim)).filter(|n| !n.is_empty());
        if !sight.card_holders.is_empty() {
            let card = list(&sight.parents);
            let held = room::held_by(&sight.card_holders.iter().collect::<Vec<_>>());
            let what = printable(&wanted.wish.to_string()).to_string();
            let left = format!("not creatable there now, its card's functions are held by {held}");
            let hint = room::ONE_SIZE;
            return Err(Refusal::NoRoom { what, place: card, left, hint: Some(hint.to_owned()) });
        }
        let meant = nearest(&wanted.wish.to_string(), names);
        let types = (!sight.untyped.is_empty()).then(|| Awaited::Types(sight.untyped.clone()));
        let (wish, parents, known) = (wanted.wish.clone(), sight.parents.clone(), sight.known.clone());
        let clue = clue(wanted, sight).map(Box::new);
        // A parent that has types has them all.
        return Err(may_come(
            request,
            wanted,
            sight,
            Refusal::NoSuchType { wish, parents, known, meant, clue },
            types,
        ));
    };
    let offers: Vec<Offer> = sight.offers.iter().filter(|offer| offer.fit == fit).cloned().collect();
    if wanted.parents.is_empty() && offers.iter().any(Offer::is_one_of_a_kind) {
        let parents = offers.iter().map(|offer| offer.place.parent.clone()).collect();
        return Err(Refusal::NeedsParent { wish: wanted.wish.clone(), parents });
    }
    for offer in &offers {
        let found: Vec<_> = offers
            .iter()
            .filter(|other| other.place.parent == offer.place.parent)
            .map(|other| other.place.kind.clone())
            .collect();
        if found.len() > 1 {
            return Err(Refusal::AmbiguousType {
                wish: wanted.wish.clone(),
                parent: offer.place.parent.clone(),
                found,
            });
        }
    }
    match wanted.numa {
        None => Ok(offers),
        Some(numa) => {
            let (here, elsewhere): (Vec<_>, Vec<_>) =
                offers.into_iter().partition(|offer| offer.numa == Some(numa));
            if here.is_empty() {
                let refusal = Refusal::NotOnNode {
                    wish: wanted.wish.clone(),
                    numa,
                    elsewhere: elsewhere.iter().map(|offer| offer.place.parent.to_string()).collect(),
                };
                return Err(may_come(request, wanted, sight, refusal, None));
            }
            Ok(here)
        }
    }
}
