//! Random sequences of changes, crashes, failing writes, audits and stray entries through the control loop,
//! compared with an independent implementation of the Service API ([`reference`]). `PROPTEST_CASES` sets
//! the number of sequences; proptest shortens a failing one before it prints it.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod agent;
mod cluster;
mod maps;
mod memory;
mod reference;

use proptest::prelude::ProptestConfig;
use proptest_state_machine::{StateMachineTest, prop_state_machine};

use crate::{
    agent::{Agent, World},
    cluster::{Cluster, Machine, Step},
    maps::Real,
    memory::CheckedMaps,
};

/// The control loop with maps in memory.
struct InMemory;
/// The control loop with the maps of the kernel.
struct InKernel;
/// The control loop with maps of the kernel that are too small.
struct InFullMaps;

macro_rules! over {
    ($test:ident, $world:ty) => {
        impl StateMachineTest for $test {
            type SystemUnderTest = Option<Agent<$world>>;
            type Reference = Machine;

            fn init_test(cluster: &Cluster) -> Self::SystemUnderTest {
                Some(Agent::start(<$world>::new()?, cluster))
            }

            fn apply(
                agent: Self::SystemUnderTest,
                cluster: &Cluster,
                step: Step,
            ) -> Self::SystemUnderTest {
                Some(agent?.step(cluster, &step))
            }

            fn teardown(agent: Self::SystemUnderTest, cluster: Cluster) {
                if let Some(agent) = agent {
                    agent.end(&cluster);
                }
            }
        }
    };
}

over!(InMemory, CheckedMaps);
over!(InKernel, Real<true>);
over!(InFullMaps, Real<false>);

fn cases(cases: u32) -> ProptestConfig {
    let config = ProptestConfig::default();
    let is_asked_for = std::env::var_os("PROPTEST_CASES").is_some();
    ProptestConfig {
        cases: if is_asked_for { config.cases } else { cases },
        failure_persistence: None,
        ..config
    }
}

prop_state_machine! {
    #![proptest_config(cases(150))]
    #[test]
    fn s07_no_sequence_leaves_the_maps_wrong(sequential 1..40 => InMemory);
}

prop_state_machine! {
    #![proptest_config(cases(6))]
    #[test]
    fn s07_no_sequence_leaves_the_kernels_maps_wrong(sequential 1..30 => InKernel);
}

prop_state_machine! {
    #![proptest_config(cases(6))]
    #[test]
    fn s66_no_sequence_leaves_full_maps_inconsistent(sequential 1..30 => InFullMaps);
}
