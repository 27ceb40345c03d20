use crate::prefect::{FlowRun, Named};

fn named(last: char, name: &str) -> Named {
    Named {
        id: format!("00000000-0000-4000-8000-00000000000{last}"),
        name: name.to_owned(),
    }
}

/// A run of the deployment `nightly` in this pool.
pub fn run(pool: &str) -> FlowRun {
    FlowRun {
        run: named('a', "red-fox"),
        work_pool: named('b', pool),
        deployment: Some(named('d', "nightly")),
        flow: Some(named('f', "etl")),
    }
}
