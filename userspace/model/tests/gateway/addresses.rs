use headgate_model::gateway::assign;

use crate::build::{cluster, condition, name};

/// Gateways by name, age, wanted addresses, and those that they have.
fn outcomes(gateways: &[(&str, i64, &str, &str)]) -> Vec<String> {
    let mut text = String::new();
    for (name, age, wanted, held) in gateways {
        text += &format!(
            "
---
kind: Gateway
metadata: {{name: {name}, creationTimestamp: {age}}}
spec:
  gatewayClassName: headgate
  addresses: [{wanted}]
  listeners: [{{name: a, port: 80, protocol: HTTP}}]
status: {{addresses: [{held}]}}
"
        );
    }
    let mut cluster = cluster(&text);
    cluster.options.pools = vec!["192.0.2.0/29".parse().unwrap()];
    let addresses = assign(&cluster.objects, &cluster.options, &Default::default());
    let resolved = cluster.resolve_with(&addresses);
    let each = gateways.iter().map(|(gateway, ..)| {
        let verdict = &resolved.verdicts[&name(gateway)];
        let values: Vec<&str> = verdict.addresses.iter().map(|one| &*one.value).collect();
        assert!(verdict.addresses.iter().all(|one| one.type_ == "IPAddress"));
        let programmed = condition(&verdict.conditions, "Programmed");
        format!("{} {programmed}", values.join("+"))
    });
    each.collect()
}

#[test]
fn g131_every_gateway_has_an_address_of_its_own() {
    let all = outcomes(&[("a", 2, "", ""), ("b", 1, "", "")]);
    assert_eq!(
        all,
        ["192.0.2.2 True/Programmed", "192.0.2.1 True/Programmed"]
    );
    // What a Gateway has stays, whatever comes before it.
    let held = "{value: 192.0.2.1}";
    let all = outcomes(&[("a", 2, "", held), ("b", 1, "", "")]);
    assert_eq!(
        all,
        ["192.0.2.1 True/Programmed", "192.0.2.2 True/Programmed"]
    );
    // An address of another pool is replaced; one that two have belongs to the older Gateway.
    let all = outcomes(&[
        ("a", 2, "", "{value: 198.51.100.1}"),
        ("b", 3, "", held),
        ("c", 1, "", held),
    ]);
    let expected =
        ["192.0.2.2", "192.0.2.3", "192.0.2.1"].map(|one| format!("{one} True/Programmed"));
    assert_eq!(all, expected);
    // 6 addresses for 7 Gateways.
    let names = ["a", "b", "c", "d", "e", "f", "g"].map(|name| (name, 1, "", ""));
    let all = outcomes(&names);
    assert_eq!(all[6], " False/AddressNotAssigned");
    assert_eq!(all[5], "192.0.2.6 True/Programmed");
}

#[test]
fn g133_addresses_that_a_gateway_names() {
    let of = |value: &str| format!("{{type: IPAddress, value: '{value}'}}");
    let two = of("192.0.2.2");
    assert_eq!(
        outcomes(&[("a", 1, &two, "")]),
        ["192.0.2.2 True/Programmed"]
    );
    // Not of a pool, not an address, of another Gateway.
    for value in ["198.51.100.1", "a.example"] {
        assert_eq!(
            outcomes(&[("a", 1, &of(value), "")]),
            [" False/AddressNotUsable"],
            "{value}"
        );
    }
    let both = outcomes(&[("a", 1, &two, ""), ("b", 2, &two, "")]);
    assert_eq!(
        both,
        ["192.0.2.2 True/Programmed", " False/AddressNotUsable"]
    );
    let held = outcomes(&[("a", 1, &two, ""), ("b", 2, "", "{value: 192.0.2.2}")]);
    assert_eq!(
        held,
        [" False/AddressNotUsable", "192.0.2.2 True/Programmed"]
    );
    // One that can be used and one that cannot.
    let some = format!("{two}, {}", of("198.51.100.1"));
    assert_eq!(
        outcomes(&[("a", 1, &some, "")]),
        ["192.0.2.2 False/AddressNotUsable"]
    );
    // Named ones come before free ones.
    let one = of("192.0.2.1");
    let all = outcomes(&[("a", 1, "", ""), ("b", 2, &one, "")]);
    assert_eq!(
        all,
        ["192.0.2.2 True/Programmed", "192.0.2.1 True/Programmed"]
    );
}

#[test]
fn g134_an_entry_without_value_gets_an_address() {
    let empty = "{type: IPAddress}, {type: IPAddress, value: ''}";
    assert_eq!(
        outcomes(&[("a", 1, empty, "")]),
        ["192.0.2.1+192.0.2.2 True/Programmed"]
    );
    let mixed = "{type: IPAddress}, {type: IPAddress, value: 192.0.2.1}";
    assert_eq!(
        outcomes(&[("a", 1, mixed, "")]),
        ["192.0.2.1+192.0.2.2 True/Programmed"]
    );
    // Again with what was written: nothing changes.
    let held = "{value: 192.0.2.1}, {value: 192.0.2.2}";
    assert_eq!(
        outcomes(&[("a", 1, mixed, held)]),
        ["192.0.2.1+192.0.2.2 True/Programmed"]
    );
}
