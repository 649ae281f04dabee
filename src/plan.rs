//! (requests, what is seen) → [`Plan`]: pure, and everything is judged before the first write.

mod defined;
mod fitting;
mod room;

use serde::Serialize;

pub use fitting::fitting;
pub use room::held_by;

use crate::backend::{Backend, proposal};
use crate::domain::{Placement, Wanted};
use crate::ids::{DeviceId, DomainUuid};
use crate::placement::{self, Taken};
use crate::refusal::{Maker, Refusal};
use crate::request::Request;
use crate::seen::{Existing, Offer, Seen, Sight};
use crate::step::{Place, Step};
use crate::words::{list, printable};

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
