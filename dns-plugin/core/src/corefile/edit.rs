//! Putting our block into a Corefile, and taking it out.

use std::net::IpAddr;
use std::ops::Range;

use daisy_api::labels::{CLUSTERSET_ZONE, SUPERCLUSTER_ZONE};
use thiserror::Error;

use super::DNS_PORT;
use super::parse::{Corefile, Directive, SyntaxError, normal};

/// What begins the line before our block; whatever follows on the line is for people.
const BEGIN: &str = "# daisy: begin";
/// What begins the line after it.
const END: &str = "# daisy: end";
/// How long the absence of what can never be in our zones may be kept, in seconds.
const NOTHING_TTL: u32 = 60;
/// Plugins whose arguments are zones or names that they answer for.
const SERVING: [&str; 13] = [
    "auto",
    "etcd",
    "file",
    "forward",
    "grpc",
    "hosts",
    "k8s_external",
    "k8s_gateway",
    "kubernetes",
    "lighthouse",
    "multicluster",
    "secondary",
    "template",
];

/// Why a Corefile cannot take our block.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CorefileError {
    /// It is not understood.
    #[error("the Corefile is not understood: {0}")]
    Syntax(#[from] SyntaxError),
    /// Someone else serves our zones in it.
    #[error(
        "line {line}: {what} already serves {zone}, which is Daisy's to serve; remove it (with its own tool, if one wrote it) and try again"
    )]
    Served {
        /// The zone or name.
        zone: String,
        /// The block or directive.
        what: String,
        /// Its line, counted from 1.
        line: usize,
    },
    /// Our block has lost its end.
    #[error(
        "line {line} begins Daisy's block and no line `# daisy: end` ends it; put that line back, or delete the whole block, and try again"
    )]
    Unterminated {
        /// Where it begins, counted from 1.
        line: usize,
    },
}

/// Adds our block, or brings it up to date where it is: names of ours are asked of these servers.
///
/// [`remove`] gives back, byte for byte, what was there before. The block is put first: so nothing of the rest changes, whether
/// or not its last line is ended. CoreDNS takes the longest zone that matches, whatever the order.
///
/// # Errors
/// [`CorefileError`]: a Corefile that is not understood, or in which another block or plugin serves our zones.
pub fn insert(corefile: &str, servers: &[IpAddr]) -> Result<String, CorefileError> {
    let (regions, open) = regions(corefile);
    if let Some(line) = open {
        return Err(CorefileError::Unterminated { line });
    }
    let parsed = Corefile::parse(&blanked(corefile, &regions))?;
    let port = dns_port(&parsed);
    if let Some(error) = served(&parsed, port) {
        return Err(error);
    }
    let after_mark = if corefile.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    let at = regions.first().map_or(after_mark, |region| region.start);
    let mut text = without(corefile, &regions);
    text.insert_str(at, &block(servers, port));
    Ok(text)
}

/// Takes our block out. A block that has lost its end is left, since where it ended is anyone's guess.
#[must_use]
pub fn remove(corefile: &str) -> String {
    without(corefile, &regions(corefile).0)
}

fn block(servers: &[IpAddr], port: u16) -> String {
    let servers = servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let keys = |prefixes: &[&str]| {
        let zones = [SUPERCLUSTER_ZONE, CLUSTERSET_ZONE];
        let keys = zones.iter().flat_map(|zone| prefixes.iter().map(move |prefix| format!("{prefix}{zone}:{port}")));
        keys.collect::<Vec<_>>().join(" ")
    };
    let ours = keys(&["svc.", "dns-version."]);
    let rest = keys(&[""]);
    format!(
        "\
{BEGIN} (by `daisy join`; `daisy leave` removes it; changes between these two lines do not last)
{ours} {{
    errors
    forward . {servers}
}}
{rest} {{
    template ANY ANY {{
        rcode NXDOMAIN
        authority \"{{{{ .Zone }}}} {NOTHING_TTL} IN SOA ns.dns.{{{{ .Zone }}}} hostmaster.{{{{ .Zone }}}} 1 7200 1800 86400 {NOTHING_TTL}\"
    }}
}}
{END}
"
    )
}

/// Where our blocks are, whole lines each; and the line of one that does not end.
fn regions(corefile: &str) -> (Vec<Range<usize>>, Option<usize>) {
    let mut regions = Vec::new();
    let mut open: Option<(usize, usize)> = None;
    let mut at = 0;
    for (index, line) in corefile.split_inclusive('\n').enumerate() {
        let text = line.trim_start_matches('\u{feff}').trim();
        let mark = line.len() - line.trim_start_matches('\u{feff}').len();
        match open {
            None if text.starts_with(BEGIN) => open = Some((at + mark, index + 1)),
            Some((start, _)) if text.starts_with(END) => {
                regions.push(start..at + line.len());
                open = None;
            }
            None | Some(_) => {}
        }
        at += line.len();
    }
    (regions, open.map(|(_, line)| line))
}

fn without(corefile: &str, regions: &[Range<usize>]) -> String {
    let mut text = String::with_capacity(corefile.len());
    let mut at = 0;
    for region in regions {
        text.push_str(&corefile[at..region.start]);
        at = region.end;
    }
    text.push_str(&corefile[at..]);
    text
}

/// The text without our blocks, its lines still where they were.
fn blanked(corefile: &str, regions: &[Range<usize>]) -> String {
    let mut text = String::with_capacity(corefile.len());
    let mut at = 0;
    for region in regions {
        text.push_str(&corefile[at..region.start]);
        text.extend(corefile[region.clone()].chars().filter(|c| *c == '\n'));
        at = region.end;
    }
    text.push_str(&corefile[at..]);
    text
}

/// The port that the cluster's names are served on, which ours must be too: 53 nearly everywhere.
fn dns_port(corefile: &Corefile) -> u16 {
    let cluster = corefile.blocks.iter().find(|block| block.directives.iter().any(|d| d.name == "kubernetes"));
    cluster.and_then(|block| block.keys.iter().find(|key| key.plain && !key.is_snippet())).map_or(DNS_PORT, |key| key.port)
}

fn served(corefile: &Corefile, port: u16) -> Option<CorefileError> {
    corefile.blocks.iter().find_map(|block| {
        let key = block.keys.iter().find(|key| key.plain && key.port == port && is_ours(&key.zone));
        if let Some(key) = key {
            return Some(CorefileError::Served { zone: key.zone.clone(), what: "a server block".into(), line: block.line });
        }
        block.directives.iter().find_map(|directive| {
            let zone = name_of_ours(directive)?;
            let what = format!("the plugin `{}`", directive.name);
            Some(CorefileError::Served { zone, what, line: directive.line })
        })
    })
}

fn name_of_ours(directive: &Directive) -> Option<String> {
    if !SERVING.contains(&directive.name.as_str()) {
        return None;
    }
    let words = directive.arguments.iter().chain(directive.lines.iter().flatten());
    words.map(|word| normal(word)).find(|name| is_ours(name))
}

fn is_ours(zone: &str) -> bool {
    [SUPERCLUSTER_ZONE, CLUSTERSET_ZONE]
        .iter()
        .any(|ours| zone.strip_suffix(ours).is_some_and(|s| s.is_empty() || s.ends_with('.')))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Route, rules};
    use super::*;

    const KUBEADM: &str =
        ".:53 {\n    errors\n    kubernetes cluster.local in-addr.arpa {\n    }\n    forward . /etc/resolv.conf\n}\n";

    fn ip() -> IpAddr {
        IpAddr::from([10, 96, 0, 53])
    }

    #[test]
    fn what_is_inserted_is_understood() {
        let text = insert(KUBEADM, &[ip()]).expect("can take it");
        let corefile = Corefile::parse(&text).expect("valid");
        assert_eq!(corefile.blocks.len(), 3);
        let rules: Vec<_> = rules(&corefile).into_iter().map(|rule| (rule.zone, rule.route)).collect();
        let forward = Route::Forward(vec![(ip(), 53).into()]);
        assert_eq!(
            rules,
            [
                ("svc.supercluster.local".to_owned(), forward.clone()),
                ("dns-version.supercluster.local".to_owned(), forward.clone()),
                ("svc.clusterset.local".to_owned(), forward.clone()),
                ("dns-version.clusterset.local".to_owned(), forward),
                ("supercluster.local".to_owned(), Route::NxDomain),
                ("clusterset.local".to_owned(), Route::NxDomain),
            ]
        );
    }

    #[test]
    fn each_of_several_servers_is_asked() {
        let servers = [ip(), IpAddr::from([10, 96, 0, 54])];
        let corefile = Corefile::parse(&insert(KUBEADM, &servers).expect("can take it")).expect("valid");
        let forward = Route::Forward(servers.map(|ip| (ip, 53).into()).to_vec());
        assert_eq!(rules(&corefile).into_iter().next().map(|rule| rule.route), Some(forward));
    }

    #[test]
    fn inserting_again_changes_nothing_and_another_address_replaces() {
        let once = insert(KUBEADM, &[ip()]).expect("can take it");
        assert_eq!(insert(&once, &[ip()]).expect("its own block"), once);
        let other = insert(&once, &["fd00::53".parse().expect("address")]).expect("its own block");
        assert!(other.contains("forward . fd00::53\n") && !other.contains("10.96.0.53"), "{other}");
        assert_eq!(remove(&other), KUBEADM);
    }

    #[test]
    fn an_older_block_is_replaced_where_it_stands() {
        let old = format!("# mine\n{BEGIN} (old)\nsupercluster.local {{\n}}\n{END}\r\n{KUBEADM}");
        let new = insert(&old, &[ip()]).expect("its own block");
        assert!(new.starts_with("# mine\n# daisy: begin (by"), "{new}");
        assert!(new.ends_with(KUBEADM));
        assert_eq!(remove(&new), format!("# mine\n{KUBEADM}"));
        assert_eq!(remove(&old), format!("# mine\n{KUBEADM}"));
    }

    #[test]
    fn the_port_is_the_clusters() {
        let text = insert(".:1053 {\n    kubernetes cluster.local\n}\n", &[ip()]).expect("can take it");
        assert!(text.contains("svc.supercluster.local:1053 "), "{text}");
    }

    #[test]
    fn another_who_serves_our_zones_is_named() {
        let submariner = format!("{KUBEADM}#lighthouse\nclusterset.local:53 {{\n    forward . 10.96.7.7\n}}\n");
        let error = insert(&submariner, &[ip()]).expect_err("served");
        assert_eq!(error, CorefileError::Served { zone: "clusterset.local".into(), what: "a server block".into(), line: 8 });
        assert!(error.to_string().starts_with("line 8: a server block already serves clusterset.local"), "{error}");
        let plugin = ".:53 {\n  kubernetes cluster.local\n  multicluster ClusterSet.local.\n}\n";
        let error = insert(plugin, &[ip()]).expect_err("served");
        assert_eq!(
            error,
            CorefileError::Served { zone: "clusterset.local".into(), what: "the plugin `multicluster`".into(), line: 3 }
        );
        // Elsewhere, or on another port, it is no concern of ours.
        for fine in [
            "notsupercluster.local:53 {\n}\n",
            "clusterset.local:5353 {\n}\n",
            ". {\n rewrite name a.b x.svc.supercluster.local\n}\n",
        ] {
            insert(fine, &[ip()]).expect("not ours");
        }
    }

    #[test]
    fn lines_are_counted_in_the_file_as_it_is() {
        let text = insert(KUBEADM, &[ip()]).expect("can take it") + "clusterset.local {\n}\n";
        let line = text.lines().position(|l| l == "clusterset.local {").expect("there") + 1;
        assert!(matches!(insert(&text, &[ip()]), Err(CorefileError::Served { line: at, .. }) if at == line));
    }

    #[test]
    fn what_cannot_be_edited_is_left_alone() {
        let broken = format!("{BEGIN}\nsupercluster.local {{\n}}\n");
        assert_eq!(insert(&broken, &[ip()]), Err(CorefileError::Unterminated { line: 1 }));
        assert_eq!(remove(&broken), broken);
        assert!(matches!(insert(".:53\nerrors\n", &[ip()]), Err(CorefileError::Syntax(SyntaxError::NoBraces { line: 1 }))));
        assert!(matches!(insert(". {\n", &[ip()]), Err(CorefileError::Syntax(SyntaxError::Unclosed { line: 1 }))));
    }

    /// Pieces that make valid and invalid Corefiles, marks in odd places among them.
    fn corefiles() -> impl Strategy<Value = String> {
        let pieces = vec![
            KUBEADM,
            "example.org {\n    whoami\n}\n",
            "(snip) {\n    errors\n}\n",
            "# a comment",
            "\n",
            "\r\n",
            "  ",
            "\u{feff}",
            "\"quoted # daisy: begin\" {\n}\n",
            "# daisy: end\n",
            "# daisy: begin\n",
            "é\n",
            "clusterset.local {\n}\n",
            "import x\n",
        ];
        prop::collection::vec(prop::sample::select(pieces), 0..6).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn remove_undoes_insert(text in corefiles(), v4 in any::<u32>()) {
            let address = IpAddr::from(std::net::Ipv4Addr::from(v4));
            if let Ok(inserted) = insert(&text, &[address]) {
                prop_assert_eq!(remove(&inserted), remove(&text));
                if !text.contains(BEGIN) {
                    prop_assert_eq!(remove(&inserted), text);
                }
                let again = insert(&inserted, &[address]);
                prop_assert_eq!(again.as_ref(), Ok(&inserted), "not idempotent");
                prop_assert!(Corefile::parse(&inserted).is_ok());
            }
        }

        #[test]
        fn never_panics(text in "(# daisy: (begin|end)|[ -~\n\r\u{feff}]|\\PC)*") {
            let _ = insert(&text, &[IpAddr::from([1, 2, 3, 4])]);
            let _ = remove(&text);
        }
    }
}
