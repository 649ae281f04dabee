//! `virt-mdev plan`: the dry run, and the form of a bug report.

use std::io::{self, Read};

use serde::Serialize;

use super::{Failure, config, to_json};
use crate::arrival::Change;
use crate::arrive;
use crate::backend::nvidia;
use crate::domain::{self, Domain, MAX_XML};
use crate::event::{Action, Event};
use crate::host::{Host, see};
use crate::ids::DeviceId;
use crate::plan::{self, Plan, Planned};
use crate::record::{Named, Phase, Record, Records, State};
use crate::refusal::Refusal;
use crate::request::{Request, requests};
use crate::start;
use crate::step::Step;
use crate::words::printable;

const SWITCHED_OFF: &str = "enabled = false: the hook does nothing";

#[derive(Serialize)]
struct Answer {
    domain: Named,
    event: &'static str,
    /// Of a domain that comes: what its XML is to have in place of what it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<Vec<Change>>,
    #[serde(flatten)]
    plan: Plan,
}

pub(super) fn run(host: &Host, event: &str, json: bool) -> Result<String, Failure> {
    let mut xml = Vec::new();
    io::stdin()
        .lock()
        .take(MAX_XML as u64 + 1)
        .read_to_end(&mut xml)
        .map_err(|error| crate::host::Trouble::new("read", "stdin".as_ref(), error))?;
    if xml.trim_ascii().is_empty() {
        return Err(Failure::new("there is no domain XML on standard input")
            .hint("virsh dumpxml --inactive VM | virt-mdev plan"));
    }
    text(host, Event::from_word(event).unwrap_or(Event::Prepare), &xml, json)
}

/// What `event` would do for the domain of this XML, as the command prints it.
pub fn text(host: &Host, event: Event, xml: &[u8], json: bool) -> Result<String, Failure> {
    let answer = answer(host, event, xml)?;
    if json { to_json(&answer) } else { Ok(in_words(&answer)) }
}

fn answer(host: &Host, event: Event, xml: &[u8]) -> Result<Answer, Failure> {
    let host = &host.looking();
    let records = Records::new(host);
    let mut changes = None;
    let (domain, plan) = match event.action() {
        Action::Prepare | Action::Arrive if !config(host)?.enabled => {
            (whose(xml)?, Plan { steps: vec![], notes: vec![SWITCHED_OFF.to_owned()], ..Plan::default() })
        }
        Action::Prepare => {
            let domain = Domain::read(xml)?;
            let config = config(host)?;
            let planned = || -> Result<Plan, Refusal> {
                let requests = requests(&domain, |address| nvidia::function(host, address))?;
                start::judge(host, &domain, config.labels, None, &[])?;
                let seen = see::see(host, &records, &domain.uuid, &requests, config.definitions)?;
                let mut plan = plan::prepare(&domain.uuid, &requests, &seen, config.placement)?;
                plan.notes.extend(missing(&requests, &plan));
                Ok(plan)
            };
            let record = records.read(&domain.uuid).ok().flatten();
            let record = record.filter(|record| record.phase != Phase::Kept);
            let mut plan = planned().map_err(|refusal| {
                let own = in_its_own_way(&refusal, record.as_ref());
                own.unwrap_or_else(|| refusal.into()).about(&domain.name)
            })?;
            if let Some(record) = record {
                let own: Vec<&DeviceId> = record.devices().map(|(device, ..)| device).collect();
                plan.steps.retain(
                    |planned| !matches!(&planned.step, Step::Use { device, .. } if own.contains(&device)),
                );
                plan.notes.retain(|note| !own.iter().any(|device| note.contains(&device.to_string())));
                plan.notes.push(
                    "the domain has a record already: at a prepare, what it lists would be released first, and made anew"
                        .to_owned(),
                );
            }
            (Named { uuid: domain.uuid, name: domain.name }, plan)
        }
        Action::Arrive => {
            let domain = Domain::read(xml)?;
            let arrival = arrive::judge(host, config(host)?, xml, None, &mut Vec::new())
                .map_err(|refusal| Failure::from(refusal).about(&domain.name))?;
            changes = Some(arrival.changes);
            (Named { uuid: domain.uuid, name: domain.name }, arrival.plan)
        }
        Action::Release => {
            let uuid = domain::uuid_in(xml).ok_or(Refusal::XmlLacks("uuid"))?;
            match records.read(&uuid)? {
                Some(record) => (record.domain.clone(), release(&record)),
                None => (whose(xml)?, Plan::default()),
            }
        }
        Action::Label => {
            let domain = Domain::read(xml)?;
            let plan = match records.read(&domain.uuid)? {
                Some(record) => start::plan(host, &domain, &record, config(host)?.labels)
                    .map_err(|refusal| Failure::from(refusal).about(&domain.name))?,
                None => Plan::default(),
            };
            (Named { uuid: domain.uuid, name: domain.name }, plan)
        }
        Action::Follow | Action::Compare | Action::Nothing => {
            let domain = Domain::read(xml)?;
            (Named { uuid: domain.uuid, name: domain.name }, Plan::default())
        }
    };
    Ok(Answer { domain, event: event.word(), changes, plan })
}

/// What is in the domain's way may be its own, which a prepare releases first: then it is not to be removed by hand, and what
/// comes afterwards cannot be told yet.
fn in_its_own_way(refusal: &Refusal, record: Option<&Record>) -> Option<Failure> {
    let steps = record.into_iter().flat_map(|record| &record.steps);
    let mut goes = steps.filter_map(|entry| match entry.step.release() {
        Some(Step::Destroy { device, .. }) => Some(device),
        _ => None,
    });
    let now = match refusal {
        Refusal::NoRoom { .. } if goes.next().is_some() => refusal.to_string(),
        Refusal::OtherDevice { device, place, wanted, .. } if goes.any(|its| its == *device) => {
            format!("{device} is {place} now, and not {wanted}")
        }
        _ => return None,
    };
    let failure = Failure::new(format!("{now}; a prepare releases first what the domain has"));
    Some(failure.hint("ask again when the domain is off"))
}

/// What is not there and will not be: the hook leaves that to whoever opens it, since another hook may make it.
fn missing(requests: &[Request], plan: &Plan) -> Vec<String> {
    let devices = plan.devices();
    let missing = requests.iter().map(|request| &request.device).filter(|device| !devices.contains(device));
    let note = |device| {
        format!(
            "{device} is not there, and neither the domain's metadata nor a definition that is used says what it is to be: unless somebody else makes it, the domain will not start"
        )
    };
    missing.map(note).collect()
}

/// What a release would do, from the record alone.
fn release(record: &Record) -> Plan {
    let mut plan = Plan::default();
    for entry in record.steps.iter().rev().filter(|entry| entry.state != State::Kept) {
        match (entry.step.release(), &entry.step) {
            (Some(step), _) => {
                let why = if matches!(step, Step::Destroy { .. }) {
                    "virt-mdev made it"
                } else {
                    "virt-mdev set it"
                };
                plan.steps.push(Planned { step, why: why.to_owned() });
            }
            (None, Step::Create { device, .. } | Step::Adopt { device, .. }) => {
                plan.notes.push(format!("{device} is kept"));
            }
            (None, Step::Use { device, .. }) => {
                plan.notes.push(format!("{device} was made by somebody else and stays"))
            }
            (None, _) => {}
        }
    }
    plan
}

/// Whose XML it is, where the rest of it need not be to our taste.
fn whose(xml: &[u8]) -> Result<Named, Refusal> {
    match Domain::read(xml) {
        Ok(domain) => Ok(Named { uuid: domain.uuid, name: domain.name }),
        Err(refusal) => {
            let uuid = domain::uuid_in(xml).ok_or(refusal)?;
            Ok(Named { name: uuid.to_string(), uuid })
        }
    }
}

fn in_words(answer: &Answer) -> String {
    let mut text = format!("{}: {}\n", printable(&answer.domain.name), answer.event);
    match &answer.changes {
        Some(changes) if changes.is_empty() => text.push_str("  the XML stays as it is\n"),
        Some(changes) => {
            for Change { from, to, why } in changes {
                text.push_str(&format!("  in the XML, {from} becomes {to}\n     {why}\n"));
            }
        }
        None if answer.plan.steps.is_empty() => text.push_str("  nothing to do\n"),
        None => {}
    }
    if answer.changes.is_some() && !answer.plan.steps.is_empty() {
        text.push_str("then, at prepare:\n");
    }
    for (number, planned) in answer.plan.steps.iter().enumerate() {
        text.push_str(&format!("  {}. {}\n", number + 1, planned.step));
        if !planned.why.is_empty() {
            text.push_str(&format!("     {}\n", planned.why));
        }
    }
    for note in &answer.plan.notes {
        text.push_str(&format!("note: {note}\n"));
    }
    text
}
