//! A small cluster: a bridge, nodes on it, pods behind each node, and a client outside.

use std::{
    fs,
    io::{ErrorKind, Write},
    net::{Ipv4Addr, Ipv6Addr},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aya::programs::{XdpMode, links::FdLink};
use headgate_dataplane::{DatapathConfig, MapSizes, cgroup_root, load};
use nix::{
    net::if_::if_nameindex,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    layout::{Layout, tunnel},
    netns::{Netns, ip},
    process::{Process, binary},
};

/// The port that the servers of pods listen on.
const POD_PORT: u16 = 9376;
/// Map sizes that the kernel allocates quickly, unless a test chooses others.
const SMALL: [[&str; 2]; 5] = [
    ["--max-slots", "65536"],
    ["--max-connections", "16384"],
    ["--max-backends", "4096"],
    ["--max-services", "4096"],
    ["--maglev-size", "251"],
];
/// The user id that the L7 proxy runs as.
pub const PROXY_USER: &str = "65532";

/// Nodes, pods and a client. Dropping it removes everything.
#[allow(missing_debug_implementations, reason = "TestServer has no Debug")]
pub struct Cluster {
    /// The API server of the agents, if they do not read manifests.
    #[cfg(feature = "api")]
    pub api: Option<headgate_apiserver::TestServer>,
    /// `RUST_LOG` of agents and proxies that are started from now on.
    pub log: Option<&'static str>,
    /// A machine outside of the cluster, on the link of the nodes.
    pub client: Netns,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// The namespace of the bridge that links them. Dropped last, because a veth pair is removed with
    /// either end.
    fabric: Netns,
    folder: PathBuf,
    cgroup: PathBuf,
    pins: PathBuf,
    layout: Layout,
    keep: bool,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Its name in the cluster, `n1` and so on.
    pub name: String,
    /// Its namespace.
    pub netns: Netns,
    /// Its pods.
    pub pods: Vec<Pod>,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    /// The cgroup of all its processes.
    pub cgroup: PathBuf,
    /// The folder in the BPF file system that its agent pins to.
    pub pins: PathBuf,
    /// Its agent, if it runs.
    pub agent: Option<Process>,
    /// Its L7 proxy, if it runs.
    pub proxy: Option<Process>,
}

/// A pod with a server that answers with its name.
#[derive(Debug)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    /// Its namespace.
    pub netns: Netns,
    server: Process,
}

impl Cluster {
    /// Makes a cluster of `nodes` nodes with `pods` pods each. `prefix` begins the name of everything
    /// that it makes: namespaces, cgroup, pins and the folder in `/tmp`.
    pub fn new(prefix: &str, nodes: u8, pods: u8) -> Result<Self> {
        Self::laid_out(prefix, nodes, pods, Layout::Routed)
    }

    /// Takes the program off the devices of the fabric without which XDP of nodes sends nothing: veth devices copy each
    /// packet for it. Agents run with `--xdp never` then.
    ///
    /// # Errors
    ///
    /// If its pins cannot be removed.
    pub fn without_fabric_program(self) -> Result<Self> {
        fs::remove_dir_all(self.pins.join("fabric"))?;
        Ok(self)
    }

    /// The same, with nodes and pods connected in this way. A tunnel connects two nodes alone.
    pub fn laid_out(prefix: &str, nodes: u8, pods: u8, layout: Layout) -> Result<Self> {
        let folder = std::env::temp_dir().join(prefix);
        fs::create_dir_all(folder.join("manifests"))?;
        let cgroup = cgroup_mount()?.join(prefix);
        let fabric = Netns::new(&format!("{prefix}-fabric"))?;
        fabric.batch("link add br0 type bridge mcast_snooping 0\nlink set br0 up")?;
        let client = Netns::new(&format!("{prefix}-client"))?;
        let addresses = ("192.168.50.100/24", "fd50::100/64");
        plug(layout, &fabric, &client, ("client", 100), addresses)?;
        let mut cluster = Self {
            #[cfg(feature = "api")]
            api: None,
            log: None,
            client,
            nodes: Vec::new(),
            fabric,
            folder,
            cgroup,
            layout,
            pins: Path::new("/sys/fs/bpf").join(prefix),
            keep: false,
        };
        for number in 1..=nodes {
            let node = cluster.add_node(prefix, number, pods)?;
            cluster.nodes.push(node);
        }
        let mut ports = vec!["client".into()];
        for node in &cluster.nodes {
            ports.push(node.name.clone());
            if layout.has_second_card() {
                ports.push(format!("{}-private", node.name));
            }
        }
        pass_at_xdp(&cluster.fabric, ports, cluster.pins.join("fabric"))?;
        if let (Layout::Tunnel, [one, other]) = (layout, &cluster.nodes[..]) {
            tunnel(&one.netns, &other.netns)?;
        }
        for own in 1..=nodes {
            for other in (1..=nodes).filter(|other| *other != own) {
                let node = &cluster.nodes[usize::from(own) - 1];
                layout.connect(&node.netns, own, other)?;
            }
        }
        Ok(cluster)
    }

    fn add_node(&self, prefix: &str, number: u8, pods: u8) -> Result<Node> {
        let name = format!("n{number}");
        let netns = Netns::new(&format!("{prefix}-{name}"))?;
        let v4 = Ipv4Addr::new(192, 168, 50, number);
        let v6 = Ipv6Addr::new(0xfd50, 0, 0, 0, 0, 0, 0, number.into());
        let addresses = (&*format!("{v4}/24"), &*format!("{v6}/64"));
        plug(
            self.layout,
            &self.fabric,
            &netns,
            (&name, number),
            addresses,
        )?;
        if self.layout.has_second_card() {
            let (v4, v6) = (format!("10.50.0.{number}/24"), format!("fd51::{number}/64"));
            plug_as(
                "eth1",
                &self.fabric,
                &netns,
                &format!("{name}-private"),
                &v4,
                &v6,
            )?;
        }
        netns.sysctl(&[
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
        ])?;
        // Packets to service addresses leave a node, and a pod, over its default route.
        netns.batch("route add default via 192.168.50.100\nroute add default via fd50::100")?;
        let mut node = Node {
            cgroup: self.cgroup.join(&name),
            pins: self.pins.join(&name),
            name,
            netns,
            pods: Vec::new(),
            v4,
            v6,
            agent: None,
            proxy: None,
        };
        fs::create_dir_all(&node.cgroup)
            .with_context(|| format!("cannot create cgroup {}", node.cgroup.display()))?;
        for pod in 1..=pods {
            let pod = node.add_pod(prefix, number, pod, self.layout)?;
            node.pods.push(pod);
        }
        Ok(node)
    }

    /// Removes what an earlier cluster of this prefix left behind: one that was kept, or one whose
    /// process was killed.
    pub fn sweep(prefix: &str) -> Result<()> {
        let cgroup = cgroup_mount()?.join(prefix);
        let pins = Path::new("/sys/fs/bpf").join(prefix);
        let mut names = Vec::new();
        for entry in fs::read_dir("/run/netns").into_iter().flatten() {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with(&format!("{prefix}-")) {
                names.push(name);
            }
        }
        for name in names {
            for id in processes_in(&Path::new("/run/netns").join(&name))? {
                // The process may have ended meanwhile.
                let _ended = kill(Pid::from_raw(id), Signal::SIGKILL);
            }
            ip(&format!("netns del {name}"))?;
        }
        for folder in fs::read_dir(&cgroup).into_iter().flatten() {
            let path = folder?.path();
            if path.is_dir() {
                remove_cgroup(&path);
            }
        }
        remove_cgroup(&cgroup);
        for folder in [&pins, &std::env::temp_dir().join(prefix)] {
            if folder.exists() {
                fs::remove_dir_all(folder)?;
            }
        }
        Ok(())
    }

    /// The folder from which agents read manifests.
    pub fn manifests(&self) -> PathBuf {
        self.folder.join("manifests")
    }

    /// Writes a manifest by rename, as an editor does: agents never read half a file.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let temporary = self.folder.join(file);
        fs::write(&temporary, text)?;
        fs::rename(temporary, self.manifests().join(file))?;
        Ok(())
    }

    /// Whether agents ask an API server, or read manifests.
    fn has_api(&self) -> bool {
        self.kubeconfig().exists()
    }

    /// The kubeconfig file of the API server.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// Runs `kubectl`, with `input` as its standard input, and returns what it prints.
    pub fn kubectl(&self, words: &[&str], input: &str) -> Result<String> {
        let mut command = self.client.command("kubectl", None);
        let mut child = command
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .args(words)
            .env("HOME", &self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("kubectl")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {words:?}: {error}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts the agent of a node and waits until it has programmed its source: the objects of the API
    /// server if there is one, else the manifests.
    pub fn start_agent(&mut self, index: usize) -> Result<()> {
        self.start_agent_with(index, &[])
    }

    /// Starts the agent of a node with further options.
    pub fn start_agent_with(&mut self, index: usize, options: &[&str]) -> Result<()> {
        let command = self.agent_command(index, options)?;
        self.nodes[index].agent = Some(Process::start(command, "ready")?);
        Ok(())
    }

    /// The command that starts the agent of a node.
    pub fn agent_command(&self, index: usize, options: &[&str]) -> Result<Command> {
        let command = self.nodes[index].netns.command(binary("headgate")?, None);
        Ok(self.as_agent(index, command, options))
    }

    /// The command that starts the agent of a node by another one, for example prlimit(1).
    pub fn agent_command_by(&self, index: usize, by: &[&str], options: &[&str]) -> Result<Command> {
        let (program, words) = by.split_first().context("no command")?;
        let mut command = self.nodes[index].netns.command(program, None);
        command.args(words).arg(binary("headgate")?);
        Ok(self.as_agent(index, command, options))
    }

    /// Starts the agent of a node with these capabilities, in the form of setpriv(1): for example
    /// `-all,+net_admin`.
    pub fn start_agent_as(
        &mut self,
        index: usize,
        capabilities: &str,
        options: &[&str],
    ) -> Result<()> {
        let by = [
            "setpriv",
            "--no-new-privs",
            "--bounding-set",
            capabilities,
            "--inh-caps",
            capabilities,
        ];
        let command = self.agent_command_by(index, &by, options)?;
        self.nodes[index].agent = Some(Process::start(command, "ready")?);
        Ok(())
    }

    fn as_agent(&self, index: usize, mut command: Command, options: &[&str]) -> Command {
        let node = &self.nodes[index];
        command
            .arg("--pins")
            .arg(&node.pins)
            .args(["agent", "--node-name", &node.name])
            .arg("--cgroup")
            .arg(&node.cgroup)
            .args(options);
        let is_chosen = |name: &str| options.iter().any(|option| option.starts_with(name));
        // The devices of nodes stand for network cards.
        if self.layout == Layout::Routed && !is_chosen("--xdp") {
            command.args(["--xdp", "always"]);
        }
        for small in SMALL.iter().filter(|[name, _]| !is_chosen(name)) {
            command.args(small);
        }
        if self.has_api() {
            command.env("KUBECONFIG", self.kubeconfig());
        } else {
            command.arg("--source").arg(self.manifests());
        }
        // Tests wait for its line about each pass.
        command.env(
            "RUST_LOG",
            self.log.unwrap_or("info,headgate_control=debug"),
        );
        command
    }

    /// Starts an L7 proxy on a node, without capabilities and as its own user. The agent must run with
    /// `--proxy-user` already. The proxy serves the same source as the agent. Returns the proxy that
    /// ran there before; it still runs.
    pub fn start_proxy(&mut self, index: usize, options: &[&str]) -> Result<Option<Process>> {
        let program = self.shared_binary()?;
        let kubeconfig = self.has_api().then(|| self.kubeconfig());
        let node = &mut self.nodes[index];
        let mut command = node.netns.command("setpriv", None);
        command
            .args([
                "--reuid",
                PROXY_USER,
                "--regid",
                PROXY_USER,
                "--clear-groups",
            ])
            .args([
                "--no-new-privs",
                "--bounding-set",
                "-all",
                "--inh-caps",
                "-all",
            ])
            .arg(program)
            // A pod has the folder mounted. Here the process starts in it, because only root may
            // enter the folders above.
            .current_dir(&node.pins)
            .args(["--pins", ".", "proxy", "--node-name", &node.name])
            .args(options);
        if let Some(kubeconfig) = kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        } else {
            command.arg("--source").arg(self.folder.join("manifests"));
        }
        command.envs(self.log.map(|log| ("RUST_LOG", log)));
        Ok(node.proxy.replace(Process::start(command, "ready")?))
    }

    /// The path of the binary in a folder that every user may enter.
    fn shared_binary(&self) -> Result<PathBuf> {
        let (built, shared) = (binary("headgate")?, self.folder.join("headgate"));
        if !shared.exists() && fs::hard_link(&built, &shared).is_err() {
            // The folder is on another file system.
            fs::copy(&built, &shared)?;
        }
        Ok(shared)
    }

    /// Gives `eth0` of a node an XDP program of another owner. It is detached when the returned file is removed.
    pub fn occupy_xdp(&self, index: usize) -> Result<PathBuf> {
        let pins = self.pins.join("other");
        pass_at_xdp(&self.nodes[index].netns, vec!["eth0".into()], pins.clone())?;
        Ok(pins.join("eth0"))
    }

    /// Gives all devices another MTU.
    pub fn set_mtu(&self, mtu: u16) -> Result<()> {
        let pods = self.nodes.iter().flat_map(|node| &node.pods);
        let nodes = self.nodes.iter().map(|node| &node.netns);
        let all = pods.map(|pod| &pod.netns).chain(nodes);
        for netns in all.chain([&self.client, &self.fabric]) {
            let names = netns.run(|| {
                let devices = if_nameindex()?;
                let names = devices.iter().map(|device| device.name().to_owned());
                Ok::<_, nix::Error>(names.collect::<Vec<_>>())
            })?;
            let names = names.iter().map(|name| name.to_string_lossy());
            let commands = names.filter(|name| name != "lo");
            let commands = commands.map(|name| format!("link set {name} mtu {mtu}\n"));
            netns.batch(&commands.collect::<String>())?;
        }
        Ok(())
    }

    /// Deletes the device of a pod and makes another one with the same name.
    pub fn replace_device(&self, node: usize, pod: usize) -> Result<()> {
        let (of, number) = (node as u8 + 1, pod as u8 + 1);
        let node = &self.nodes[node];
        let pod = &node.pods[pod];
        pod.netns.batch("link del eth0")?;
        let addresses = (pod.v4, pod.v6);
        self.layout
            .attach(&node.netns, &pod.netns, (of, number), addresses)
    }

    /// Keeps everything running after the drop.
    pub fn keep(mut self) {
        self.keep = true;
        self.client.keep();
        self.fabric.keep();
        for node in &mut self.nodes {
            node.netns.keep();
            for process in [&mut node.agent, &mut node.proxy].into_iter().flatten() {
                process.keep();
            }
            for pod in &mut node.pods {
                pod.netns.keep();
                pod.server.keep();
            }
        }
    }
}

impl Node {
    fn add_pod(&self, prefix: &str, node: u8, number: u8, layout: Layout) -> Result<Pod> {
        let name = format!("web-{node}-{number}");
        let netns = Netns::new(&format!("{prefix}-{name}"))?;
        let host = number + 1;
        let v4 = Ipv4Addr::new(10, 244, node, host);
        let v6 = Ipv6Addr::new(0xfd44, node.into(), 0, 0, 0, 0, 0, host.into());
        layout.attach(&self.netns, &netns, (node, number), (v4, v6))?;
        let mut command = netns.command(binary("headgate-echo")?, Some(&self.cgroup));
        command.args(["--name", &name, "--port", &POD_PORT.to_string()]);
        let server = Process::start(command, "ready")?;
        Ok(Pod {
            name,
            v4,
            v6,
            netns,
            server,
        })
    }

    /// Prints the state of its agent, its services and its connections.
    fn show(&self) {
        for command in ["status", "services", "conntrack"] {
            let output = binary("headgate").and_then(|program| {
                let mut show = self.netns.command(program, None);
                Ok(show.arg("--pins").arg(&self.pins).arg(command).output()?)
            });
            match output {
                Ok(output) => eprintln!(
                    "--- {} of {}\n{}",
                    command,
                    self.name,
                    String::from_utf8_lossy(&output.stdout)
                ),
                Err(error) => eprintln!("--- {command} of {}: {error:#}", self.name),
            }
        }
    }
}

/// Makes a device `eth0` in `netns` with its other end on the bridge, by name and number, and with these addresses, on
/// a VLAN if the layout has one.
fn plug(
    layout: Layout,
    fabric: &Netns,
    netns: &Netns,
    (port, number): (&str, u8),
    (v4, v6): (&str, &str),
) -> Result<()> {
    if layout != Layout::Vlan {
        return plug_as("eth0", fabric, netns, port, v4, v6);
    }
    let (untagged_v4, untagged_v6) = (format!("10.60.0.{number}/24"), format!("fd60::{number}/64"));
    plug_as("eth0", fabric, netns, port, &untagged_v4, &untagged_v6)?;
    netns.batch(&format!(
        "link add link eth0 name eth0.100 type vlan id 100\n\
         link set eth0.100 up\n\
         address add {v4} dev eth0.100\n\
         address add {v6} dev eth0.100 nodad"
    ))
}

/// Makes a device in `netns` with its other end on the bridge.
fn plug_as(
    device: &str,
    fabric: &Netns,
    netns: &Netns,
    port: &str,
    v4: &str,
    v6: &str,
) -> Result<()> {
    let inside = netns.name();
    fabric.batch(&format!(
        "link add {port} type veth peer name {device} netns {inside}\n\
         link set {port} master br0\n\
         link set {port} up"
    ))?;
    netns.batch(&format!(
        "link set {device} up\n\
         address add {v4} dev {device}\n\
         address add {v6} dev {device} nodad"
    ))
}

/// Attaches an XDP program that only passes frames on to devices, by links that are pinned with their names. On the ports
/// of the bridge, veth devices then behave as network cards do.
///
/// A frame that XDP sends out of a veth waits in a ring until the other end polls it, and the kernel
/// wakes the other end only if that has an XDP program too (`veth_xdp_flush`, Linux 6.18).
fn pass_at_xdp(netns: &Netns, ports: Vec<String>, pins: PathBuf) -> Result<()> {
    netns.run(move || {
        const FEW: u32 = 16;
        let sizes = MapSizes {
            frontends: FEW,
            services: FEW,
            backends: FEW,
            slots: FEW,
            connections: FEW,
            sockets: FEW,
            ..MapSizes::default()
        };
        let mut programs = load(&pins, &DatapathConfig::default(), &sizes)?;
        let pass = programs.xdp("hg_baseline_pass")?;
        for port in ports {
            let id = pass.attach(&port, XdpMode::Driver)?;
            let link: FdLink = pass.take_link(id)?.try_into()?;
            link.pin(pins.join(&port))?;
        }
        Ok(())
    })
}

/// Ids of the processes in a network namespace.
fn processes_in(netns: &Path) -> Result<Vec<i32>> {
    let wanted = fs::metadata(netns)?.ino();
    let ids = fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let is_inside = |id: &i32| {
        fs::metadata(format!("/proc/{id}/ns/net")).is_ok_and(|netns| netns.ino() == wanted)
    };
    Ok(ids.filter(is_inside).collect())
}

/// Removes a cgroup and those in it. The kernel allows it only some time after its last process ended.
fn remove_cgroup(path: &Path) {
    for inside in fs::read_dir(path).into_iter().flatten().flatten() {
        if inside.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&inside.path());
        }
    }
    for _ in 0..100 {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == ErrorKind::ResourceBusy => {
                thread::sleep(Duration::from_millis(20));
            }
            _ => return,
        }
    }
    eprintln!("left behind {}", path.display());
}

fn cgroup_mount() -> Result<PathBuf> {
    cgroup_root()?.context("cgroup2 is not mounted")
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        for node in &mut self.nodes {
            if thread::panicking() {
                node.show();
            }
            node.agent = None;
            node.proxy = None;
            node.pods.clear();
            remove_cgroup(&node.cgroup);
        }
        remove_cgroup(&self.cgroup);
        for folder in [&self.pins, &self.folder] {
            if let Err(error) = fs::remove_dir_all(folder) {
                eprintln!("left behind {}: {error}", folder.display());
            }
        }
    }
}
