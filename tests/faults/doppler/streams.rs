//! Faults of Doppler's watch stream.
//!
//! Input: none. Output: the cases.
//! Invariants: polls go on, so that a change arrives all the same.

use std::time::Instant;

use anyhow::{Result, ensure};
use testkit::doppler::{Doppler, Fault, RecordedRequest, WatchMode};

use super::{MAX_PER_SECOND, Place};
use crate::case::{Case, Group, Seen};
use crate::stage::{after, recovered};

const STREAMS: &str = "A change reaches the Secret all the same, and the binding stays Ready.";

/// The cases.
pub fn cases() -> Vec<Case> {
    let case = |name: &str, binding: &'static str, broken: fn(&Doppler)| {
        Case::new(Group::Doppler, name, STREAMS, move || {
            change_arrives(binding, broken)
        })
    };
    vec![
        case("watch stream cut", "s-cut", Doppler::close_streams),
        case("watch stream silent", "s-silent", |doppler| {
            doppler.set_watch_mode(WatchMode::Silent);
        }),
        case("watch stream refused by the plan", "s-plan", |doppler| {
            doppler.set_watch_mode(WatchMode::Refused(403, "not on this plan".to_owned()));
            doppler.close_streams();
        }),
        case(
            "the wrong media type for valid JSON",
            "s-media",
            |doppler| {
                let fault = Fault::MediaType("text/plain".to_owned());
                doppler.fault(RecordedRequest::is_download, fault);
            },
        ),
        case("garbage on the watch stream", "s-garbage", |doppler| {
            doppler.send_chunks("p", "dev", &[vec![0xff; 70_000], b"data: {\n\n".to_vec()]);
        }),
        case(
            "a flood of events on the watch stream",
            "s-flood",
            |doppler| {
                for _ in 0..5_000 {
                    doppler.send_update("p", "dev");
                }
            },
        ),
    ]
}

async fn change_arrives(binding: &str, broken: fn(&Doppler)) -> Result<Seen> {
    let place = Place::start(binding.to_owned()).await?;
    let world = place.world;
    let (start, before_fault) = (Instant::now(), place.traffic());
    broken(&place.doppler);
    place.doppler.replace("p", "dev", after());
    let recovery = recovered(world, binding, &after(), start).await?;
    // Two more polls: the operator must not read for every event.
    world.until_polls("unchanged", 2).await?;
    let requests = place.traffic() - before_fault;
    let most = MAX_PER_SECOND * (start.elapsed().as_secs() + 4);
    ensure!(
        requests <= most,
        "{requests} requests in {:?}",
        start.elapsed()
    );
    Ok(Seen {
        what: "the change arrived".to_owned(),
        requests: Some(requests),
        lasted: None,
        recovery: Some(recovery),
    })
}
