use super::*;
use crate::doppler::webhook::WebhookScope;

fn named(config: &str) -> Webhook {
    Webhook {
        scope: WebhookScope::All,
        target: Some(("backend".to_owned(), config.to_owned())),
    }
}

fn whole() -> Webhook {
    Webhook {
        scope: WebhookScope::All,
        target: None,
    }
}

#[test]
fn a_burst_fires_at_its_start_and_once_after_the_interval() {
    let (mut coalescer, start) = (Coalescer::default(), Instant::now());
    assert_eq!(coalescer.offer(whole(), start), Some(whole()));
    assert_eq!(coalescer.next_due(), None);
    for after in 1..10 {
        let now = start + Duration::from_secs(after);
        assert_eq!(coalescer.offer(whole(), now), None);
        assert_eq!(coalescer.take_due(now), []);
    }
    let end = start + SCOPE_INTERVAL;
    assert_eq!(coalescer.next_due(), Some(end));
    assert_eq!(coalescer.take_due(end), [whole()], "the last of the burst");
    assert_eq!(coalescer.next_due(), None);
    assert_eq!(
        coalescer.offer(whole(), end),
        None,
        "a new interval has begun"
    );
    assert_eq!(coalescer.take_due(end + SCOPE_INTERVAL), [whole()]);
    let later = end + SCOPE_INTERVAL * 3;
    assert_eq!(coalescer.offer(whole(), later), Some(whole()));
}

#[test]
fn each_config_has_its_own_interval() {
    let (mut coalescer, start) = (Coalescer::default(), Instant::now());
    assert!(coalescer.offer(named("dev"), start).is_some());
    assert!(coalescer.offer(named("prd"), start).is_some());
    assert!(coalescer.offer(whole(), start).is_some());
    assert!(coalescer.offer(named("dev"), start).is_none());
    assert_eq!(coalescer.take_due(start + CONFIG_INTERVAL), [named("dev")]);
}

#[test]
fn a_deferred_webhook_absorbs_later_ones_until_it_is_taken() {
    let (mut coalescer, start) = (Coalescer::default(), Instant::now());
    coalescer.offer(whole(), start);
    coalescer.offer(whole(), start);
    let late = start + SCOPE_INTERVAL * 2;
    assert_eq!(
        coalescer.offer(whole(), late),
        None,
        "one webhook is pending already"
    );
    assert_eq!(coalescer.take_due(late), [whole()]);
}

#[test]
fn too_many_configs_collapse_into_their_scope() {
    let (mut coalescer, start) = (Coalescer::default(), Instant::now());
    for number in 0..MAX_TRACKED {
        assert!(coalescer.offer(named(&number.to_string()), start).is_some());
    }
    assert_eq!(coalescer.offer(named("more"), start), Some(whole()));
    assert_eq!(coalescer.offer(named("and more"), start), None);
    assert!(coalescer.slots.len() <= MAX_TRACKED + 1);
    let later = start + CONFIG_INTERVAL;
    assert_eq!(coalescer.offer(named("more"), later), Some(named("more")));
    assert!(coalescer.slots.len() <= 3, "ended intervals are evicted");
}
