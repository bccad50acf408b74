//! Commands in text: which programs a block of shell, or of text with a prompt, calls and with which arguments. No shell
//! is started; what only a shell knows (variables, substitutions) has a stand-in.

/// What stands for a value that only a shell knows.
const UNKNOWN: &str = "mqtt://127.0.0.1:1883";

/// The calls of programs whose name begins with `vmkpi` in `text`: program and arguments. An argument `...` is in it
/// where the text leaves something out.
pub fn calls(text: &str) -> Vec<Vec<String>> {
    let joined = text.replace("\\\n", " ");
    let mut calls = Vec::new();
    for line in joined.lines() {
        let line = line.trim_start();
        let line = line.strip_prefix("$ ").unwrap_or(line);
        for words in commands(line) {
            calls.extend(call(&words));
        }
    }
    calls
}

/// The simple commands of a line, as words.
fn commands(line: &str) -> Vec<Vec<String>> {
    let mut all = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = line.chars().peekable();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '$') if characters.peek() == Some(&'(') => {
                characters.next();
                all.push(Vec::new());
            }
            (None | Some('"'), '$') => {
                while characters
                    .next_if(|c| c.is_alphanumeric() || *c == '_')
                    .is_some()
                {}
                word.get_or_insert_default().push_str(UNKNOWN);
            }
            (None, '#') if word.is_none() => break,
            (None, c) if c.is_whitespace() || "|;&()<>".contains(c) => {
                let last = all.last_mut();
                if let (Some(last), Some(word)) = (last, word.take()) {
                    last.push(word);
                }
                match c {
                    // What follows is a file, and no argument.
                    '<' | '>' => all.push(vec!["redirected".into()]),
                    c if c.is_whitespace() => {}
                    _ => all.push(Vec::new()),
                }
            }
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if let (Some(last), Some(word)) = (all.last_mut(), word) {
        last.push(word);
    }
    all
}

/// The words from the program's name on, if this command calls one of ours.
fn call(words: &[String]) -> Option<Vec<String>> {
    let is_ours = |word: &String| {
        let name = word.rsplit('/').next().unwrap_or(word);
        matches!(name, "vmkpi" | "vmkpi-guest" | "vmkpi-host")
    };
    let at = words.iter().position(is_ours)?;
    let prefix = |word: &String| {
        matches!(
            word.as_str(),
            "exec"
                | "sudo"
                | "-u"
                | "vmkpi-host"
                | "time"
                | "if"
                | "do"
                | "then"
                | "!"
                | "while"
                | "until"
        ) || word.contains('=')
    };
    // `install FILE vmkpi-host` calls install.
    let begins = words[..at].iter().all(prefix) || words[..at].first().is_some_and(|w| w == "sudo");
    // The name of a user may be that of a program: the call is the last word of its kind that is no file.
    let at = match words.get(at + 1) {
        Some(next) if words[..at].contains(&"-u".to_owned()) && is_ours(next) => at + 1,
        _ => at,
    };
    let mut call: Vec<String> = words[at..].to_vec();
    call[0] = call[0].rsplit('/').next().unwrap_or_default().to_owned();
    // `2` of `2> file`.
    if call.last().is_some_and(|last| last == "2") {
        call.pop();
    }
    (begins && call.len() > 1).then_some(call)
}
