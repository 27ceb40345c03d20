//! Faults on demand. In: a predicate on requests and what is to go wrong. Out: the fault for a request, if there is one.

use std::time::Duration;

use super::requests::RecordedRequest;

/// What goes wrong with an answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// An error in Doppler's shape, with this status and message.
    Error(u16, String),
    /// This status, media type and body instead of the true ones.
    Answer(u16, String, Vec<u8>),
    /// A redirect (302) to this URL.
    Redirect(String),
    /// The connection is closed without an answer.
    Close,
    /// The request is never answered.
    Hang,
    /// The true answer, this much later.
    Delay(Duration),
    /// The head of the true answer and this many bytes of its body; then the connection is closed.
    Truncate(usize),
    /// The true answer under this media type.
    MediaType(String),
    /// A JSON object that goes on for this many bytes, without a length in the head.
    Huge(u64),
}

impl Fault {
    /// 200 and an empty object, as if every secret were gone.
    #[must_use]
    pub fn empty_object() -> Self {
        Self::Answer(
            200,
            "application/json; charset=utf-8".to_owned(),
            b"{}".to_vec(),
        )
    }

    /// 200 and a page, as a captive portal would.
    #[must_use]
    pub fn not_json() -> Self {
        let page = b"<!doctype html><title>Sign in</title>".to_vec();
        Self::Answer(200, "text/html".to_owned(), page)
    }
}

/// Names a fault that was set.
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

    /// The first fault that fits and is not used up; one use of it is spent.
    pub(super) fn next_for(&mut self, call: &RecordedRequest) -> Option<Fault> {
        let planned = self
            .planned
            .iter_mut()
            .find(|planned| planned.remaining != Some(0) && (planned.matches)(call))?;
        planned.remaining = planned.remaining.map(|left| left - 1);
        Some(planned.fault.clone())
    }
}
