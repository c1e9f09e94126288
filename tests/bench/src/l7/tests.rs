//! The benchmark measures what its titles say. Short loads; no figure is checked.

use std::fs;

use headgate_netns::http;

use super::{ADDRESS, GUARDED, Setup, World, idle, latency, measure, workers};

/// A world of its own; `None` without root.
fn world(name: &str) -> Option<World> {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: {name}: network namespaces need root");
        return None;
    }
    Some(World::new(&format!("hg{}{name}", std::process::id() % 10_000)).unwrap())
}

#[test]
fn l204_the_guarded_load_is_guarded_and_logged() {
    let Some(world) = world("l4") else { return };
    for proxy in [
        world.headgate(Setup::Guarded).unwrap(),
        world.nginx(Setup::Guarded).unwrap(),
    ] {
        let address = (ADDRESS, proxy.http).into();
        let (refused, _) = world.netns.run(move || http(address, "/")).unwrap();
        assert_eq!(refused, 401, "{}", proxy.name);
        let sample = measure(&world, &GUARDED, 1, &proxy).unwrap();
        assert!(sample.rate > 0.0, "{}", proxy.name);
        let log = fs::read_to_string(&proxy.log).unwrap();
        let count = |status: &str| log.lines().filter(|line| line.contains(status)).count();
        assert!(count(" 200 ") > 10, "{}", proxy.name);
        assert!(
            log.contains("- bench [") || proxy.name == "headgate",
            "{log}"
        );
        assert_eq!(count(" 503 "), 0, "{}", proxy.name);
    }
}

#[test]
fn l205_latency_is_measured_at_the_given_rate() {
    let Some(world) = world("l5") else { return };
    for proxy in [
        world.headgate(Setup::Usual).unwrap(),
        world.nginx(Setup::Usual).unwrap(),
    ] {
        let [half, most, all] = latency::sample(&world, proxy.http, 320.0, 1).unwrap();
        assert!(0.0 < half && half <= most && most <= all, "{}", proxy.name);
    }
}

#[test]
fn l206_each_worker_is_counted() {
    let Some(world) = world("l6") else { return };
    for count in [1, 2] {
        let proxy = world.headgate(Setup::Workers(count)).unwrap();
        let times = workers::times(proxy.process.id()).unwrap();
        assert_eq!(times.len(), usize::from(count));
    }
    assert!(workers::sample(&world, 2, 1).unwrap() > 0.0);
}

#[test]
fn l207_idle_connections_are_answered_and_stay_open() {
    let Some(world) = world("l7") else { return };
    for kind in idle::KINDS {
        let table = idle::measure(&world, kind, 40).unwrap().to_string();
        for name in ["headgate", "nginx"] {
            assert!(table.contains(name), "{table}");
        }
    }
}
