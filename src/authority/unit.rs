//! The unit of a service manager, from the path of a control group.
//!
//! Owns which part of such a path can be believed. Pure: a path in, a name out.

/// The unit that a process is in, by the path of its control group (version 2): the first part that is a service or a
/// scope, with nothing but slices above it.
///
/// What lies below that part was made by the unit itself, under whatever names it liked: below `user@1000.service` that is
/// the user, so a `foo.service` there is not the system's. And where something else than a slice lies above, the
/// hierarchy is another's than the service manager's.
#[must_use]
pub fn unit_of(control_group: &str) -> Option<String> {
    let mut parts = control_group.strip_prefix('/')?.split('/');
    let part = parts.find(|part| !is_unit(part, &[".slice"]))?;
    is_unit(part, &[".service", ".scope"]).then(|| unescaped(part).to_owned())
}

fn is_unit(part: &str, kinds: &[&str]) -> bool {
    kinds.iter().any(|kind| part.len() > kind.len() && part.ends_with(kind))
}

/// A name that would be one of the kernel's own files has an underscore before it, and so has one that begins with an
/// underscore.
fn unescaped(part: &str) -> &str {
    part.strip_prefix('_').unwrap_or(part)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::unit_of;

    #[test]
    fn the_first_service_or_scope_below_slices_is_the_unit() {
        for (path, unit) in [
            ("/system.slice/foo.service", Some("foo.service")),
            ("/system.slice/system-foo.slice/foo@1.service", Some("foo@1.service")),
            ("/system.slice/foo.service/child/bar.service", Some("foo.service")),
            ("/user.slice/user-1000.slice/session-3.scope", Some("session-3.scope")),
            ("/init.scope", Some("init.scope")),
            ("/foo.service", Some("foo.service")),
            // Made by the user.
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/foo.service",
                Some("user@1000.service"),
            ),
            ("/user.slice/user-1000.slice/user@1000.service/foo.service", Some("user@1000.service")),
            (
                "/user.slice/user-1000.slice/user@1000.service/system.slice/foo.service",
                Some("user@1000.service"),
            ),
            // Not the service manager's hierarchy, or outside of what is seen.
            ("/docker/0123/system.slice/foo.service", None),
            ("/../../system.slice/foo.service", None),
            ("/system.slice//foo.service", None),
            ("/system.slice/foo.service (deleted)", None),
            ("/system.slice", None),
            ("/", None),
            ("", None),
            ("system.slice/foo.service", None),
            ("/.service", None),
            ("/.slice/foo.service", None),
            // Escaped.
            ("/system.slice/_memory.service", Some("memory.service")),
            ("/system.slice/__x.service", Some("_x.service")),
        ] {
            assert_eq!(unit_of(path).as_deref(), unit, "{path}");
        }
    }

    proptest! {
        /// Whatever a unit makes below itself, it is that unit; and whatever is told stands in the path.
        #[test]
        fn nothing_below_a_unit_changes_what_it_is(
            slices in "(/[a-z-]{1,5}\\.slice){0,3}",
            unit in "[a-z@]{1,6}\\.(service|scope)",
            below in "(/[a-z@._-]{0,8}(\\.service|\\.scope|\\.slice)?){0,4}",
        ) {
            let own = format!("{slices}/{unit}");
            prop_assert_eq!(unit_of(&format!("{own}{below}")), Some(unit));
        }

        #[test]
        fn no_path_makes_it_panic_or_make_a_name_up(path in "[/a-z._@ ]{0,40}") {
            if let Some(unit) = unit_of(&path) {
                prop_assert!(path.contains(&unit) && !unit.contains('/'));
            }
        }
    }
}
