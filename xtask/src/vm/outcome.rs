//! What the console of a virtual machine says.

/// The results in the console output of a machine.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Whether the machine ran all tests.
    is_done: bool,
    programs: usize,
    loaded: usize,
    tests: usize,
    passed: usize,
    /// Features that the kernel lacks.
    without: Vec<String>,
}

impl Outcome {
    pub(super) fn of(lines: &[String]) -> Self {
        let mut outcome = Self::default();
        for line in lines {
            if line == "vm: done" {
                outcome.is_done = true;
            } else if let Some((_, result)) =
                line.split_once(": ").filter(|_| line.starts_with("hg_"))
            {
                outcome.programs += 1;
                outcome.loaded += usize::from(result.starts_with("loaded"));
            } else if let Some(result) = line
                .strip_prefix("test ")
                .and_then(|test| test.split_once(" ... "))
            {
                outcome.tests += 1;
                outcome.passed += usize::from(result.1 == "ok");
            } else if let Some((feature, _)) = line
                .strip_prefix("warning kernel: no ")
                .and_then(|rest| rest.split_once(": "))
            {
                outcome.without.push(feature.into());
            }
        }
        outcome
    }

    pub(super) fn has_passed(&self) -> bool {
        let Self {
            programs,
            loaded,
            tests,
            passed,
            ..
        } = self;
        self.is_done && *tests > 0 && loaded == programs && passed == tests
    }

    pub(super) fn row(&self) -> String {
        let Self {
            programs,
            loaded,
            tests,
            passed,
            ..
        } = self;
        let without = match self.without.is_empty() {
            true => "nothing".into(),
            false => self.without.join(", "),
        };
        let end = if self.is_done { "" } else { ", CUT OFF" };
        format!("{loaded} of {programs} | {passed} of {tests}{end} | {without}")
    }
}

#[cfg(test)]
mod tests {
    use super::Outcome;

    #[test]
    fn console_is_read() {
        let console = "\
            warning kernel: no TCX (Linux 6.6): programs of TC are filters\n\
            ok      kernel: Linux 6.1\n\
            test every_program_loads ... ok\n\
            hg_tc_pod: loaded, 85 instructions verified\n\
            hg_xdp_external: cannot load\n\
            test a ... FAILED\n\
            test result: FAILED. 1 passed; 1 failed\n\
            vm: done";
        let lines: Vec<String> = console.lines().map(String::from).collect();
        let outcome = Outcome::of(&lines);
        assert_eq!(outcome.row(), "1 of 2 | 1 of 2 | TCX (Linux 6.6)");
        assert!(!outcome.has_passed());
        let cut = Outcome::of(&lines[..4]);
        assert_eq!(cut.row(), "1 of 1 | 1 of 1, CUT OFF | TCX (Linux 6.6)");
        assert!(!cut.has_passed());
    }
}
