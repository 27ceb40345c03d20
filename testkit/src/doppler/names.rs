//! Doppler's name transformers.
//!
//! Input: a name in upper snake case. Output: the transformed name.
//! Invariants: pure.

/// The values of `name_transformer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transformer {
    Camel,
    UpperCamel,
    LowerSnake,
    TfVar,
    Dotnet,
    DotnetEnv,
    LowerKebab,
}

impl Transformer {
    /// The transformer with that name, if Doppler supports it.
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "camel" => Self::Camel,
            "upper-camel" => Self::UpperCamel,
            "lower-snake" => Self::LowerSnake,
            "tf-var" => Self::TfVar,
            "dotnet" => Self::Dotnet,
            "dotnet-env" => Self::DotnetEnv,
            "lower-kebab" => Self::LowerKebab,
            _ => return None,
        })
    }

    /// `name` in this style.
    pub(super) fn apply(self, name: &str) -> String {
        match self {
            Self::Camel => uncapitalized(&pascal(name)),
            Self::UpperCamel => pascal(name),
            Self::LowerSnake => name.to_lowercase(),
            Self::TfVar => format!("TF_VAR_{}", name.to_lowercase()),
            Self::Dotnet => sections(name).join(":"),
            Self::DotnetEnv => sections(name).join("__"),
            Self::LowerKebab => name.to_lowercase().replace('_', "-"),
        }
    }
}

/// The sections of a .NET name, which a double underscore separates.
pub(super) fn sections(name: &str) -> Vec<String> {
    name.split("__").map(pascal).collect()
}

fn pascal(name: &str) -> String {
    name.split('_').map(capitalized).collect()
}

fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| {
        first
            .to_uppercase()
            .chain(letters.flat_map(char::to_lowercase))
            .collect()
    })
}

fn uncapitalized(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(letters).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_transformer_renames_as_documented() {
        let written =
            |transformer: &str, name: &str| Transformer::parse(transformer).unwrap().apply(name);
        assert_eq!(written("camel", "API_KEY"), "apiKey");
        assert_eq!(written("upper-camel", "API_KEY"), "ApiKey");
        assert_eq!(written("lower-snake", "API_KEY"), "api_key");
        assert_eq!(written("tf-var", "API_KEY"), "TF_VAR_api_key");
        assert_eq!(written("dotnet", "SMTP__USER_NAME"), "Smtp:UserName");
        assert_eq!(written("dotnet-env", "SMTP__USER_NAME"), "Smtp__UserName");
        assert_eq!(written("lower-kebab", "API_KEY"), "api-key");
    }

    #[test]
    fn rejects_unknown_transformers() {
        assert_eq!(Transformer::parse("upper-snake"), None);
    }
}
