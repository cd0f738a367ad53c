//! What a container's image stands for. The lab pulls nothing: an image is a program of this machine.

use crate::holder::DAISY_INSIDE;

/// An image that the lab knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Image {
    /// This executable, any role of it.
    Daisy,
    /// The lab's own small web server, on port 80. It is not nginx.
    Nginx,
    /// A process that waits to be ended; commands run beside it see this machine's programs.
    Pause,
}

impl Image {
    /// The image that a reference names, whatever its registry, tag and digest.
    pub(super) fn parse(reference: &str) -> Option<Self> {
        let name = reference.split('@').next().unwrap_or_default();
        let name = name.rsplit('/').next().unwrap_or_default();
        match name.split(':').next().unwrap_or_default() {
            "daisy" => Some(Self::Daisy),
            "nginx" => Some(Self::Nginx),
            "pause" | "sleep" => Some(Self::Pause),
            _ => None,
        }
    }

    /// What is run where the container names no command.
    fn entrypoint(self) -> &'static [&'static str] {
        match self {
            Self::Daisy => &[DAISY_INSIDE],
            Self::Nginx => &[DAISY_INSIDE, "lab-internal", "http"],
            Self::Pause => &[DAISY_INSIDE, "lab-internal", "pause"],
        }
    }

    /// The whole command line of a container (`command` and `args` as Kubernetes has them).
    pub(super) fn command_line(self, command: Vec<String>, arguments: Vec<String>) -> Vec<String> {
        let mut line = command;
        if line.is_empty() {
            line = self.entrypoint().iter().map(|s| (*s).to_owned()).collect();
        } else if self == Self::Daisy && line[0].rsplit('/').next() == Some("daisy") {
            // Wherever a real image has it.
            DAISY_INSIDE.clone_into(&mut line[0]);
        }
        line.extend(arguments);
        line
    }
}

/// Said of an image that the lab does not know.
pub(super) fn unknown(reference: &str) -> String {
    format!("the lab has no image {reference:?}: it knows daisy, nginx (its own small web server), sleep and pause")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        for reference in ["daisy", "ghcr.io/daisy/daisy:0.1.0", "localhost:5000/daisy@sha256:00", "daisy:latest"] {
            assert_eq!(Image::parse(reference), Some(Image::Daisy), "{reference}");
        }
        assert_eq!(Image::parse("nginx:1.27"), Some(Image::Nginx));
        assert_eq!(Image::parse("registry.k8s.io/pause:3.10"), Some(Image::Pause));
        assert_eq!(Image::parse("redis"), None);
        assert_eq!(Image::parse(""), None);
    }

    #[test]
    fn command_lines() {
        let words = |w: &[&str]| w.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        assert_eq!(Image::Daisy.command_line(vec![], words(&["gateway"])), words(&[DAISY_INSIDE, "gateway"]));
        assert_eq!(Image::Daisy.command_line(words(&["/usr/bin/daisy", "dns"]), vec![]), words(&[DAISY_INSIDE, "dns"]));
        assert_eq!(Image::Pause.command_line(words(&["sleep", "9"]), vec![]), words(&["sleep", "9"]));
        let http = Image::Nginx.command_line(vec![], words(&["--port", "81"]));
        assert_eq!(http[1..], words(&["lab-internal", "http", "--port", "81"]));
    }
}
