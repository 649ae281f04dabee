//! What a definition of mdevctl's is to a plan: as good as metadata where there is none, and a note where there is.

use crate::domain::Wanted;
use crate::ids::DomainUuid;
use crate::ready::Awaited;
use crate::refusal::Refusal;
use crate::request::Request;
use crate::seen::{Defined, Lookup, Sight};
use crate::step::Step;
use crate::words::{list, nearest, printable};

/// What a device that is not there is to be. `None`: nobody says, and libvirt will miss it in its own words.
pub(super) fn wanted<'a>(
    domain: &DomainUuid,
    requests: &[Request],
    request: &'a Request,
    sight: &'a Sight,
) -> Result<Option<&'a Wanted>, Refusal> {
    let uuid = || request.device.clone();
    if request.wanted.is_none() {
        match &sight.definition {
            Lookup::One(Defined { path, wanted: Err(bad), .. }) => {
                return Err(Refusal::Definition { path: path.clone(), bad: bad.clone() });
            }
            Lookup::Several { paths, parents, there } => {
                let refusal =
                    Refusal::SeveralDefinitions { device: uuid(), paths: paths.clone(), there: *there };
                return Err(match there {
                    0 => refusal.until(Awaited::Parents(parents.clone())),
                    _ => refusal,
                });
            }
            // libvirt reads `managed` and does nothing about it; whoever wrote it counts on somebody who does.
            Lookup::Nowhere if request.managed => {
                let alone = requests.iter().all(|request| request.wanted.is_none());
                return Err(Refusal::NothingMakesIt { device: uuid(), domain: domain.clone(), alone });
            }
            _ => {}
        }
    }
    Ok(sight.wanted(request))
}

/// Where what is wanted comes from.
pub(super) fn source(sight: &Sight) -> String {
    match &sight.definition {
        Lookup::One(Defined { path, auto: true, .. }) => {
            format!("defined in {path}, with start=auto: it stays")
        }
        Lookup::One(Defined { path, .. }) => format!("defined in {path}"),
        _ => String::new(),
    }
}

/// Whether the device, of which only its definition says what it is, is to be there all the time.
pub(super) fn stays(request: &Request, sight: &Sight, step: &Step) -> bool {
    let auto = matches!(&sight.definition, Lookup::One(Defined { auto: true, .. }));
    request.wanted.is_none() && auto && matches!(step, Step::Create { .. })
}

/// The domain's author does not see what a definition asks for.
pub(super) fn with_its_file(request: &Request, sight: &Sight, refusal: Refusal) -> Refusal {
    let (None, Lookup::One(Defined { path, .. })) = (&request.wanted, &sight.definition) else {
        return refusal;
    };
    let refusal = match refusal {
        Refusal::NotYet { .. } => refusal,
        Refusal::NoSuchType { wish, parents, known, clue, .. } => {
            let word = wish.to_string();
            let by_name = known.iter().find_map(|known| known.strip_suffix(&format!(" \"{word}\"")));
            let ids = known.iter().filter_map(|known| known.split(' ').next());
            let meant = by_name.map(str::to_owned).or_else(|| nearest(&word, ids));
            Refusal::NoSuchType { wish, parents, known, meant, clue }
        }
        other => return other,
    };
    Refusal::Defined { device: request.device.clone(), path: path.clone(), refusal: Box::new(refusal) }
}

/// Where metadata and definition say different things of a device that is made: that the metadata holds.
pub(super) fn disagreement(request: &Request, sight: &Sight, step: &Step) -> Option<String> {
    let (Some(wanted), Step::Create { device, place, .. }) = (&request.wanted, step) else { return None };
    let (from, says) = match &sight.definition {
        Lookup::NotLooked | Lookup::Nowhere => return None,
        Lookup::Several { paths, .. } => (list(paths), "define it, too".to_owned()),
        Lookup::One(Defined { path, wanted: Err(bad), .. }) => (path.clone(), format!("is no use: {bad}")),
        Lookup::One(Defined { path, wanted: Ok(defined), .. }) => {
            let mut differs = Vec::new();
            // The metadata may have the vendor's name for the type.
            if defined.wish.matches(&place.kind, None).is_none() {
                differs.push(format!("type {}", printable(&defined.wish.to_string())));
            }
            differs.extend(
                defined
                    .parents
                    .iter()
                    .filter(|parent| **parent != place.parent)
                    .map(|p| format!("parent {p}")),
            );
            if defined.attributes != wanted.attributes {
                let shown: Vec<String> = defined
                    .attributes
                    .iter()
                    .map(|a| format!("{}=\"{}\"", a.name, printable(&a.value)))
                    .collect();
                differs.push(match shown.as_slice() {
                    [] => "no attributes".to_owned(),
                    shown => format!("attributes {}", shown.join(" ")),
                });
            }
            if differs.is_empty() {
                return None;
            }
            (path.clone(), format!("says {}", list(&differs)))
        }
    };
    Some(format!("the metadata of {device} holds; {from} {says}"))
}
