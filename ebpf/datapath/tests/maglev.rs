//! Weights in a Maglev table.

use std::collections::BTreeMap;

use headgate_abi::{Addr, Port, REFUSED};
use headgate_datapath::maglev::{self, Member};
use proptest::{collection::vec, prelude::*};

const SIZE: u32 = 4093;
/// FNV-1a over the ids in the table of ten backends, as it was before there were weights.
const DIGEST: u64 = 0x4754_8089_2d03_883e;

/// A table of backends that have their ids for addresses, with their weights.
fn table(weights: impl IntoIterator<Item = (u32, u32)>) -> Vec<u32> {
    let members = weights.into_iter().map(|(id, weight)| {
        let address = match id {
            REFUSED => Addr::default(),
            _ => Addr::from_v4_word(id),
        };
        Member::new(id, address, Port::new(80), 7, SIZE).weighing(weight)
    });
    let mut table = vec![0; SIZE as usize];
    maglev::fill(&mut table, &mut members.collect::<Vec<_>>());
    table
}

fn counts(table: &[u32]) -> BTreeMap<u32, u32> {
    let mut counts = BTreeMap::new();
    for id in table {
        *counts.entry(*id).or_default() += 1;
    }
    counts
}

fn moved(one: &[u32], other: &[u32]) -> usize {
    one.iter()
        .zip(other)
        .filter(|(one, other)| one != other)
        .count()
}

#[test]
fn g129_equal_weights_give_the_table_without_weights() {
    let digest = |weight| {
        let table = table((1..=10).map(|id| (id, weight)));
        table.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, id| {
            (hash ^ u64::from(*id)).wrapping_mul(0x0100_0000_01b3)
        })
    };
    for weight in [1, 7, 1_000_000] {
        assert_eq!(digest(weight), DIGEST, "{weight}");
    }
    assert!(counts(&table([(1, 0), (2, 0)])).keys().eq([&0]));
}

#[test]
fn g126_shares_follow_the_weights() {
    // 70/30/0 within 5 %: much nearer.
    let counts = counts(&table([(1, 70), (2, 30), (3, 0)]));
    assert_eq!(counts.get(&3), None);
    let share = |id: u32| f64::from(counts[&id]) / f64::from(SIZE);
    assert!(
        (share(1) - 0.7).abs() < 0.001 && (share(2) - 0.3).abs() < 0.001,
        "{counts:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn g126_weights_with_the_sum_of_the_table_are_numbers_of_slots(
        cuts in vec(1..SIZE, 1..12),
    ) {
        let mut cuts = cuts;
        cuts.extend([0, SIZE]);
        cuts.sort_unstable();
        cuts.dedup();
        let weights: Vec<(u32, u32)> = (1..).zip(cuts.windows(2).map(|pair| pair[1] - pair[0])).collect();
        let counted = counts(&table(weights.iter().copied()));
        prop_assert_eq!(counted, weights.into_iter().collect::<BTreeMap<_, _>>());
    }

    #[test]
    fn g129_unchanged_weights_move_few_slots(
        first in 1u32..100,
        second in 1u32..100,
        refused in 0u32..100,
        endpoints in 2u32..20,
    ) {
        // Endpoints of the first part come and go; the second and what is refused keep their slots, but for few.
        let total = first + second + refused;
        let slots = |weight: u32| SIZE * weight / total;
        let with = |endpoints: u32| {
            let even = (1..=endpoints).map(|id| (id, slots(first) / endpoints));
            let even = even.filter(|(_, weight)| *weight > 0);
            table(even.chain([(1000, slots(second)), (REFUSED, slots(refused))]))
        };
        let (before, after) = (with(endpoints), with(endpoints - 1));
        let kept = before.iter().zip(&after).filter(|(before, _)| **before >= 1000);
        let lost = kept.filter(|(before, after)| before != after).count();
        let least = slots(first) / endpoints;
        prop_assert!(lost <= SIZE as usize / 20 + least as usize / 2, "{lost} of {SIZE}");
        // The least that can move are the slots of the endpoint that is gone, and what rounding leaves.
        prop_assert!(
            moved(&before, &after) <= 2 * least as usize + SIZE as usize / 20,
            "{} of {SIZE}, at least {least}", moved(&before, &after)
        );
    }

    #[test]
    fn g129_a_weight_that_changes_moves_little_more_than_its_difference(from in 5u32..95, by in 1u32..5) {
        let with = |weight: u32| table([(1, weight), (2, 100 - weight)]);
        let least = (SIZE * by / 100) as usize;
        let moved = moved(&with(from), &with(from - by));
        prop_assert!(moved <= least + SIZE as usize / 100, "{moved}, at least {least}");
    }
}
