use headgate_model::ingress::ANNOTATIONS;

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

#[test]
fn l19_the_guide_has_the_table_of_annotations() {
    let after = GUIDE.split_once(BEGIN).map(|(_, after)| after);
    let written = after.and_then(|after| after.split_once(END));
    let (written, _) = written.expect("deploy/INGRESS.md has both markers");
    let expected = table();
    assert!(
        written == expected,
        "deploy/INGRESS.md should have between its markers:\n{expected}"
    );
}

#[test]
fn l19_the_guide_does_not_call_unknown_what_is_known() {
    let after = GUIDE.split_once("## Not understood").unwrap().1;
    let (list, _) = after.split_once("\n## ").unwrap();
    let names = list.lines().filter_map(|line| {
        let cells = line.strip_prefix("| ")?;
        Some(cells.split_once(" |")?.0)
    });
    let names = names.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let nginx = |name: &str| {
        ANNOTATIONS
            .iter()
            .any(|known| known.is_nginx && known.name == name)
    };
    let wrong: Vec<&str> = names.filter(|name| nginx(name)).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}
