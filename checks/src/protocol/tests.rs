use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use super::state::Budget;
use super::{BOUND, CEILING, Config, Mutant, NOT_OVERTAKEN, NOT_REFUSED, REST, Times};

const NOTHING: Budget = Budget {
    requests: 0,
    asks: 0,
    repeats: 0,
    unknown: 0,
    evictions: 0,
    crashes: 0,
    burials: 0,
    deletes: 0,
    limits: 0,
    recounts: 0,
    edits: 0,
    failovers: 0,
    ticks: 0,
    drifts: 0,
};

const TWO: Budget = Budget { requests: 2, asks: 2, ..NOTHING };
const THREE: Budget = Budget { requests: 3, asks: 3, ..NOTHING };

/// Requests fence, and anybody may be taken for dead at any time. The rows are in the database of the books.
const FENCED: Config = Config {
    fenced: true,
    counts_elsewhere: false,
    times: None,
    limit: 1,
    other_limits: &[],
    rows: 0,
    units: &[1],
    lossy: true,
    window: 1,
    budget: TWO,
    mutant: None,
};

/// Requests don't fence. Time is what keeps them from making rows too late.
const TIMED: Config = Config {
    fenced: false,
    times: Some(Times { time_to_live: 1, longest_handler: 1, margin: 1 }),
    lossy: false,
    budget: Budget { ticks: 4, ..TWO },
    ..FENCED
};

/// Runs through all states. What is printed is for whoever wants to know how many they are.
fn check(scenario: &str, config: Config) {
    let begin = Instant::now();
    let checker = config.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{scenario}: {states} states, {depth} steps deep, {:.1?}", begin.elapsed());
    if let Some((property, path)) = checker.discoveries().into_iter().next() {
        for (state, action) in path.into_vec() {
            println!("{state:?}\n=> {action:?}");
        }
        panic!("{scenario}: not so: {property}");
    }
}

#[test]
fn requests_of_several_units() {
    check(
        "one and two units under a limit of two",
        Config { limit: 2, units: &[1, 2], budget: Budget { asks: 3, ..TWO }, ..FENCED },
    );
    check("three requests under a limit of two", Config { limit: 2, budget: THREE, ..FENCED });
}

#[test]
fn messages_that_are_lost_late_and_repeated() {
    check("messages", Config { window: 2, budget: Budget { repeats: 1, ..TWO }, ..FENCED });
}

#[test]
fn replicas_that_die_or_are_taken_for_dead() {
    check("crash", Config { budget: Budget { crashes: 1, unknown: 1, ..TWO }, ..FENCED });
    check("pause", Config { limit: 2, rows: 1, budget: Budget { burials: 1, unknown: 1, ..TWO }, ..FENCED });
    check("both", Config { lossy: false, budget: Budget { crashes: 1, burials: 1, ..TWO }, ..FENCED });
}

#[test]
fn leases_that_go_out_of_use() {
    check("eviction", Config { budget: Budget { evictions: 1, asks: 3, ..TWO }, ..FENCED });
    check(
        "eviction, with late messages",
        Config { window: 2, budget: Budget { evictions: 1, requests: 1, ..TWO }, ..FENCED },
    );
    check("unknown outcomes", Config { limit: 2, budget: Budget { unknown: 2, asks: 3, ..TWO }, ..FENCED });
}

#[test]
fn counts_and_deletions() {
    let elsewhere = Config { counts_elsewhere: true, ..FENCED };
    check("two counts at once", Config { rows: 1, budget: Budget { recounts: 1, deletes: 1, ..TWO }, ..elsewhere });
    check("counts of three requests", Config { limit: 2, budget: THREE, ..elsewhere });
    check("edits", Config { rows: 1, budget: Budget { edits: 1, deletes: 1, ..TWO }, ..FENCED });
}

#[test]
fn limits_that_change() {
    let budget = Budget { limits: 1, deletes: 1, ..TWO };
    check("limits", Config { limit: 2, other_limits: &[0, 1, 3], rows: 1, budget, ..FENCED });
}

#[test]
fn fail_over_to_a_copy_that_has_lost_commits() {
    let budget = Budget { failovers: 1, ..TWO };
    check("fail-over", Config { limit: 2, lossy: false, budget, ..FENCED });
    check("fail-over, with messages that are lost", Config { budget, ..FENCED });
    check("fail-over, with an edit", Config { rows: 1, lossy: false, budget: Budget { edits: 1, ..budget }, ..FENCED });
}

#[test]
fn without_fences() {
    check("clocks that run apart", Config { budget: Budget { drifts: 1, ..TIMED.budget }, ..TIMED });
    check("unknown outcomes", Config { times: None, fenced: false, budget: Budget { unknown: 2, ..TWO }, ..FENCED });
}

/// The smallest setting in which a broken rule shows, and what it breaks.
fn broken(mutant: Mutant) -> (Config, &'static str) {
    use Mutant::*;
    let quiet = Config { lossy: false, ..FENCED };
    let with = |budget: Budget| Config { budget, ..quiet };
    let (config, property) = match mutant {
        RememberedLimit => (Config { limit: 2, other_limits: &[1], ..with(Budget { limits: 1, ..TWO }) }, CEILING),
        PartialGrants => (Config { limit: 2, units: &[2], ..with(Budget { asks: 4, ..TWO }) }, REST),
        PostingForgets => (with(TWO), CEILING),
        HeardTwice => (Config { window: 2, ..with(Budget { repeats: 1, ..THREE }) }, BOUND),
        LastWord => (Config { window: 2, ..quiet }, REST),
        GrantedTwice => (Config { window: 2, ..with(Budget { repeats: 1, ..TWO }) }, REST),
        AnsweredTwice => (Config { window: 2, ..with(Budget { repeats: 1, ..TWO }) }, CEILING),
        ReturnedAndKept => (with(THREE), CEILING),
        DeadHeard => (with(Budget { burials: 1, ..THREE }), CEILING),
        NoFirstCount => (Config { rows: 1, ..quiet }, CEILING),
        CountWithoutMark => (Config { counts_elsewhere: true, ..with(Budget { recounts: 1, ..TWO }) }, CEILING),
        OldCount => (Config { rows: 1, ..with(Budget { deletes: 1, ..TWO }) }, NOT_REFUSED),
        NoClaim => (with(THREE), NOT_OVERTAKEN),
        NothingReturned => (quiet, REST),
        UnknownReleased => (with(Budget { unknown: 1, ..TWO }), CEILING),
        SettledAsFree => (with(Budget { crashes: 1, ..THREE }), CEILING),
        FencesNotAwaited | MarkIgnored => (with(Budget { burials: 1, ..TWO }), CEILING),
        IdUsedAgain => (Config { window: 2, ..with(Budget { crashes: 1, ..THREE }) }, BOUND),
        LateFirstAsk | BegunUnseen => (Config { window: 2, ..with(Budget { evictions: 1, ..TWO }) }, REST),
        EditNotAnnounced | NothingCarried => {
            (Config { rows: 1, ..with(Budget { edits: 1, deletes: 1, ..TWO }) }, CEILING)
        }
        LifeFromAnswer | LifeIgnored | LifeUnchecked => (TIMED, CEILING),
        BuriedTooEarly => {
            (Config { times: Some(Times { time_to_live: 1, longest_handler: 2, margin: 1 }), ..TIMED }, CEILING)
        }
        NoMargin => (Config { budget: Budget { drifts: 1, ..TIMED.budget }, ..TIMED }, CEILING),
        OldEpoch => (Config { limit: 2, ..with(Budget { failovers: 1, ..THREE }) }, CEILING),
    };
    (Config { mutant: Some(mutant), ..config }, property)
}

#[test]
fn every_rule_is_needed() {
    let mut unrefuted = Vec::new();
    for mutant in Mutant::ALL {
        let begin = Instant::now();
        let (config, property) = broken(*mutant);
        let until = HasDiscoveries::AnyOf([property].into());
        let checker = config.checker().threads(1).finish_when(until).spawn_bfs().join();
        match checker.discovery(property) {
            Some(path) => {
                let steps = path.into_actions().len();
                println!("{mutant:?} breaks in {steps} steps: {property} ({:.1?})", begin.elapsed());
            }
            None => unrefuted.push(*mutant),
        }
    }
    assert!(unrefuted.is_empty(), "the model can't see these: {unrefuted:?}");
}
