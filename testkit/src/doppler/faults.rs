//! Faults that a test adds.
//!
//! Input: a predicate on requests, and a fault. Output: the fault of a request, if one applies.
//! Invariants: the fault that was added first wins.

use std::time::Duration;

use super::requests::RecordedRequest;

/// A fault of a response.
#[derive(Clone, Debug)]
pub enum Fault {
    /// An error in Doppler's format, with this status and message.
    Error(u16, String),
    /// This status, media type and body instead of those of the endpoint.
    Answer(u16, String, Vec<u8>),
    /// A redirect (302) to this URL.
    Redirect(String),
    /// The connection is closed without a response.
    Close,
    /// The request gets no response, and the connection stays open.
    Hang,
    /// The response of the endpoint, after this delay.
    Delay(Duration),
    /// The head of the response and this number of bytes of its body; then the connection is
    /// closed.
    Truncate(usize),
    /// The response of the endpoint with this media type.
    MediaType(String),
    /// A JSON object of this number of bytes, without a Content-Length.
    Huge(u64),
}

impl Fault {
    /// 200 and an empty object, as if the config had no secrets.
    #[must_use]
    pub fn empty_object() -> Self {
        Self::Answer(
            200,
            "application/json; charset=utf-8".to_owned(),
            b"{}".to_vec(),
        )
    }

    /// 200 and an HTML page, as from a captive portal.
    #[must_use]
    pub fn not_json() -> Self {
        let page = b"<!doctype html><title>Sign in</title>".to_vec();
        Self::Answer(200, "text/html".to_owned(), page)
    }
}

/// The ID of an added fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultId(u64);

type Predicate = Box<dyn Fn(&RecordedRequest) -> bool + Send + Sync>;

struct PlannedFault {
    id: FaultId,
    matches: Predicate,
    remaining: Option<u32>,
    fault: Fault,
}

#[derive(Default)]
pub(super) struct Faults {
    next_id: u64,
    planned: Vec<PlannedFault>,
}

impl Faults {
    pub(super) fn add(&mut self, times: Option<u32>, when: Predicate, fault: Fault) -> FaultId {
        let id = FaultId(self.next_id);
        self.next_id += 1;
        self.planned.push(PlannedFault {
            id,
            matches: when,
            remaining: times,
            fault,
        });
        id
    }

    pub(super) fn remove(&mut self, id: FaultId) {
        self.planned.retain(|planned| planned.id != id);
    }

    pub(super) fn clear(&mut self) {
        self.planned.clear();
    }

    /// The first fault that applies. This counts as one use of it.
    pub(super) fn next_for(&mut self, call: &RecordedRequest) -> Option<Fault> {
        let planned = self
            .planned
            .iter_mut()
            .find(|planned| planned.remaining != Some(0) && (planned.matches)(call))?;
        planned.remaining = planned.remaining.map(|left| left - 1);
        Some(planned.fault.clone())
    }
}
