//! `unsafe` stands in one place, and each use says why it is sound and why it is needed.

use crate::lexer::{Kind, tokens};
use crate::{none_of, sources};

/// The one place.
const PLACE: &str = "transport/src/sys";
/// Lines of a statement that may stand between its comment and the word.
const REACH: usize = 4;

#[test]
fn unsafe_stands_in_one_place_with_its_reasons() {
    let mut violations = Vec::new();
    // Samples that must not compile are no code of ours.
    for (path, text) in sources().into_iter().filter(|(path, _)| !path.starts_with("tests/ui/")) {
        violations.extend(check(&path, &text));
    }
    none_of("unsafe code", &violations);
}

#[test]
fn the_rule_fails_on_a_bad_sample() {
    let block = "fn f() {\n    unsafe { g() }\n}";
    assert_eq!(check("src/session.rs", block).len(), 1);
    assert_eq!(check("fuzz/a.rs", "#[unsafe(no_mangle)] fn f() {}").len(), 1);
    assert_eq!(check("transport/src/sys/unix.rs", block).len(), 2);
    let half = "fn f() {\n    // SAFETY: g asks for nothing.\n    unsafe { g() }\n}";
    assert_eq!(check("transport/src/sys/unix.rs", half).len(), 1);
    let other = "// SAFETY: a\n// JUSTIFICATION: b\nunsafe { g() }\n\nunsafe impl Send for A {}";
    assert_eq!(check("transport/src/sys/unix.rs", other).len(), 2);
}

#[test]
fn the_rule_passes_words_and_explained_blocks() {
    none_of("words", &check("src/session.rs", "// unsafe\nconst A: &str = \"unsafe\"; fn not_unsafe() {}"));
    let block = "\
fn f() {
    // JUSTIFICATION: no safe wrapper takes this option.
    // SAFETY: the pointer and the length are those of
    // `value`, which outlives the call.
    let done =
        unsafe { g() };
}
/// # Safety
///
/// `p` is valid.
unsafe fn h(p: *const u8) {}";
    none_of("a block", &check("transport/src/sys/unix.rs", block));
}

fn check(path: &str, text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let mut violations = Vec::new();
    let tokens = tokens(text);
    for (index, token) in tokens.iter().enumerate().filter(|(_, token)| token.is_ident("unsafe")) {
        if !path.starts_with(PLACE) {
            violations.push(format!("{path}:{}: unsafe outside {PLACE}", token.line));
            continue;
        }
        // A declaration's contract is its `# Safety` section, which clippy asks for.
        let declares = matches!(
            tokens.get(index + 1).map(|next| &next.kind),
            Some(Kind::Ident(word)) if word == "fn" || word == "extern"
        );
        for word in ["SAFETY:", "JUSTIFICATION:"] {
            if !declares && !comment_above(&lines, token.line).contains(word) {
                violations.push(format!("{path}:{}: unsafe without a `// {word}` comment above", token.line));
            }
        }
    }
    violations
}

/// The comment that stands above the statement of `line` (from 1), or nothing.
fn comment_above(lines: &[&str], line: usize) -> String {
    let mut at = line - 1;
    for _ in 0..REACH {
        if at == 0 || lines[at - 1].is_empty() || lines[at - 1].starts_with("//") {
            break;
        }
        at -= 1;
    }
    let comment: Vec<&str> =
        lines[..at].iter().rev().take_while(|line| line.starts_with("//")).copied().collect();
    comment.join("\n")
}
