use headgate_model::ingress::{Ingress, IngressClass, IngressOptions, Objects, Routes, routes};

use crate::build::{Build, Prefix, ingress, name, objects, refusals};

fn asking() -> Ingress {
    ingress("a").rule("foo.com", Prefix, "/", "web")
}

fn of_class(class: Option<&str>) -> Ingress {
    Ingress {
        class: class.map(Into::into),
        ..asking()
    }
}

fn by_annotation(class: &str) -> Ingress {
    let mut asking = of_class(None);
    let key = "kubernetes.io/ingress.class".into();
    asking.annotations.insert(key, class.into());
    asking
}

/// One Ingress, our class, and a class of another controller.
fn world(ingress: Ingress) -> Objects {
    let mut objects = objects([ingress]);
    let foreign = IngressClass {
        controller: "k8s.io/ingress-nginx".into(),
        is_default: false,
        parameters: None,
    };
    objects.classes.insert("foreign".into(), foreign);
    objects
}

fn served(routes: &Routes) -> bool {
    assert_eq!(routes.served.is_empty(), routes.listener.hosts.is_empty());
    !routes.served.is_empty()
}

#[test]
fn l06_an_ingress_is_served_by_the_controller_of_its_class() {
    let options = IngressOptions::default();
    let both = |field: &str, old: &str| Ingress {
        class: Some(field.into()),
        ..by_annotation(old)
    };
    for (ingress, expected) in [
        (of_class(Some("ours")), true),
        (of_class(Some("foreign")), false),
        (of_class(Some("unknown")), false),
        (of_class(None), false),
        (by_annotation("ours"), true),
        (by_annotation("foreign"), false),
        (both("ours", "foreign"), true),
        (both("foreign", "ours"), false),
    ] {
        let routes = routes(&world(ingress.clone()), &options);
        assert_eq!(served(&routes), expected, "{ingress:?}");
    }
}

#[test]
fn l06_without_class_it_is_served_by_default_class_or_option() {
    let without = IngressOptions {
        without_class: true,
        ..IngressOptions::default()
    };
    let objects = world(of_class(None));
    assert!(served(&routes(&objects, &without)));
    assert!(!served(&routes(
        &world(of_class(Some("foreign"))),
        &without
    )));
    for (default, expected) in [("ours", true), ("foreign", false)] {
        let mut objects = objects.clone();
        objects.classes.get_mut(default).unwrap().is_default = true;
        let routes = routes(&objects, &IngressOptions::default());
        assert_eq!(served(&routes), expected, "{default}");
    }
}

#[test]
fn l06_an_ingress_is_not_served_after_its_class_is_deleted() {
    let mut objects = world(asking());
    objects.classes.remove("ours");
    let routes = routes(&objects, &IngressOptions::default());
    assert_eq!(routes, Routes::default());
}

#[test]
fn l06_parameters_of_a_class_are_refused_once() {
    for first in [of_class(Some("ours")), by_annotation("ours")] {
        let mut objects = world(first);
        let second = ingress("b").rule("bar.com", Prefix, "/", "web");
        objects.ingresses.insert(name("b"), second);
        let class = objects.classes.get_mut("ours").unwrap();
        class.parameters = Some("ConfigMap settings".into());
        let only = name("a");
        let routes_of_both = routes(&objects, &IngressOptions::default());
        objects.ingresses.retain(|name, _| *name == only);
        let routes_of_one = routes(&objects, &IngressOptions::default());
        for routes in [routes_of_one, routes_of_both] {
            assert_eq!(
                refusals(&routes),
                ["IngressClass ours: spec.parameters: ConfigMap settings is not supported"]
            );
        }
    }
}

#[test]
fn l07_only_namespaces_of_the_scope_are_served() {
    let other = ingress("team/a").rule("bar.com", Prefix, "/", "web");
    let objects = objects([asking(), other]);
    let served = |namespaces: &[&str]| {
        let namespaces = namespaces.iter().map(ToString::to_string);
        let options = IngressOptions {
            namespaces: namespaces.collect(),
            ..IngressOptions::default()
        };
        routes(&objects, &options).served
    };
    assert_eq!(served(&[]), [name("default/a"), name("team/a")]);
    assert_eq!(served(&["team"]), [name("team/a")]);
    assert_eq!(served(&["team", "default"]).len(), 2);
    assert!(served(&["elsewhere"]).is_empty());
}
