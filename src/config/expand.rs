//! `${NAME}` in texts: a variable of the environment. `$${` is a plain `${`.

use super::env::Env;

/// Puts the variables in.
///
/// # Errors
/// What is wrong, when a variable is not set or is badly written.
pub(super) fn expand(text: &str, env: &Env) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(plain) = before.strip_suffix('$') {
            out.push_str(plain);
            out.push_str("${");
            rest = &from[2..];
            continue;
        }
        out.push_str(before);
        let (name, after) =
            from[2..].split_once('}').ok_or("\"${\" without \"}\"; write \"$${\" for a plain \"${\"")?;
        if !is_name(name) {
            return Err(format!("{name:?} cannot be the name of an environment variable"));
        }
        out.push_str(env.required(name)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_put_in_once() {
        let env: Env = [("A", "1"), ("B", "${A}"), ("EMPTY", "")].into_iter().collect();
        for (text, expected) in [
            ("", ""),
            ("plain $ text {}", "plain $ text {}"),
            ("${A}", "1"),
            ("x${A}y${A}z", "x1y1z"),
            ("${B}", "${A}"),
            ("[${EMPTY}]", "[]"),
            ("$${A}", "${A}"),
            ("$$ ${A}", "$$ 1"),
        ] {
            assert_eq!(expand(text, &env), Ok(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn bad_variables_are_told() {
        let env = Env::default();
        for (text, expected) in [
            ("${NONE}", "environment variable NONE is not set"),
            ("${", "without"),
            ("${A", "without"),
            ("${}", "cannot be the name"),
            ("${1}", "cannot be the name"),
            ("${A B}", "cannot be the name"),
        ] {
            assert!(expand(text, &env).is_err_and(|what| what.contains(expected)), "{text}");
        }
        let late = expand("${NONE}", &env.of_the_start()).unwrap_err();
        assert_eq!(late, "environment variable NONE is not set: those of the start hold until a restart");
    }
}
