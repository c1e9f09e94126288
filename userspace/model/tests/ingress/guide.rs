use headgate_model::ingress::{ANNOTATIONS, DIFFERENT, FOREIGN, Support, support};

use crate::{
    annotations::site,
    build::{annotation, routes_of},
};

const GUIDE: &str = include_str!("../../../../deploy/INGRESS.md");
const BEGIN: &str = "<!-- annotations: made by the test of this table -->\n";
const END: &str = "<!-- end of annotations -->\n";

fn table() -> String {
    let mut text = String::from("| Annotation | nginx | Guard | Meaning |\n|---|---|---|---|\n");
    for known in ANNOTATIONS.iter() {
        let yes = |is: bool| if is { "yes" } else { "" };
        let meaning = known.meaning.replace('|', "\\|");
        let (nginx, guard) = (yes(known.is_nginx), yes(known.is_guard));
        text += &format!("| `{}` | {nginx} | {guard} | {meaning} |\n", known.name);
    }
    text
}

/// What the guide has between two markers.
fn between<'a>(begin: &str, end: &str) -> &'a str {
    let after = GUIDE.split_once(begin).map(|(_, after)| after);
    let written = after.and_then(|after| after.split_once(end));
    let (written, _) = written.expect("deploy/INGRESS.md has both markers");
    written
}

fn assert_between(begin: &str, end: &str, expected: &str) {
    assert!(
        between(begin, end) == expected,
        "deploy/INGRESS.md should have between its markers:\n{expected}"
    );
}

/// A table of annotations with their advice.
fn advice<'a>(head: &str, rows: impl Iterator<Item = (&'a [&'a str], &'a str)>) -> String {
    let mut text = format!("| Annotation | {head} |\n|---|---|\n");
    for (names, said) in rows {
        let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        text += &format!("| {} | {said} |\n", names.join(", "));
    }
    text
}

#[test]
fn l19_the_guide_has_the_table_of_annotations() {
    assert_between(BEGIN, END, &table());
}

#[test]
fn l59_the_guide_says_what_is_not_supported_and_what_differs() {
    let foreign = FOREIGN
        .iter()
        .map(|foreign| (foreign.names, foreign.instead));
    assert_between(
        "<!-- not understood: made by the test of this table -->\n",
        "<!-- end of not understood -->\n",
        &advice("Instead", foreign),
    );
    assert_between(
        "<!-- different: made by the test of this table -->\n",
        "<!-- end of different -->\n",
        &advice("Here", DIFFERENT.iter().copied()),
    );
}

#[test]
fn l59_no_annotation_is_both_supported_and_not() {
    let is_known = |name: &&str| {
        let mut known = ANNOTATIONS.iter().filter(|known| known.is_nginx);
        known.any(|known| known.name == *name)
    };
    let foreign: Vec<&str> = FOREIGN.iter().flat_map(|it| it.names).copied().collect();
    let wrong: Vec<&&str> = foreign.iter().filter(|name| is_known(name)).collect();
    assert!(wrong.is_empty(), "{wrong:?} are supported");
    let different = DIFFERENT.iter().flat_map(|(names, _)| *names);
    let wrong: Vec<&&str> = different.filter(|name| !is_known(name)).collect();
    assert!(wrong.is_empty(), "{wrong:?} are not supported");
}

/// An Event and `headgate migrate` say the same about an annotation.
#[test]
fn l150_a_refusal_says_what_to_do_instead() {
    let names = FOREIGN.iter().flat_map(|entry| {
        let names = entry.names.iter();
        names.map(|name| (*name, entry.instead))
    });
    for (name, instead) in names.chain([("limit-rp", "unknown annotation; check its name")]) {
        let key = annotation(name);
        let site = site(&[(name, "deny all;")]);
        let support = &support(&site.annotations)[&key];
        let (Support::Unsupported(advice) | Support::Closes(advice)) = support else {
            panic!("{name}: {support:?}");
        };
        assert!(advice.ends_with(instead), "{name}: {advice}");
        let routes = routes_of([site]);
        let [refusal] = &routes.refusals[..] else {
            panic!("{name}: {:?}", routes.refusals);
        };
        assert_eq!(refusal.field, format!("metadata.annotations[{key}]"));
        assert_eq!(refusal.reason, format!("is not supported: {advice}"));
    }
}
