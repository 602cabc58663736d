//! `mqadmin`: what is typed, and which command does it.

mod acl;
mod broker;
mod cluster;
mod export;
mod group;
mod message;
mod namesrv;
mod offset;
mod topic;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::inspect::output::Output;
use crate::security::SecurityArgs;
use cluster::{Error, Result, Session};

const NOTES: &str = "\
Names and options are those of RocketMQ's mqadmin. Exit codes: 0 done; 1 refused or failed; 2 not \
understood.

Tab completion: source <(mqadmin completion bash)";

/// Asks and changes a running RocketMQ cluster, of this broker or of Java's.
#[derive(Parser)]
#[command(name = "mqadmin", version, after_help = NOTES)]
struct Cli {
    /// Name servers, parted by semicolons.
    #[arg(
        short = 'n',
        long = "namesrvAddr",
        global = true,
        env = "NAMESRV_ADDR",
        default_value = "127.0.0.1:9876",
        value_name = "HOST:PORT"
    )]
    namesrv: String,
    /// Write JSON, one object a line.
    #[arg(long, global = true)]
    json: bool,
    /// Wait so many seconds for an answer.
    #[arg(long, global = true, default_value_t = 10, value_name = "SECONDS")]
    timeout: u64,
    #[command(flatten)]
    security: SecurityArgs,
    #[command(subcommand)]
    verb: Verb,
}

/// Makes the commands: `Name "name" Arguments => what runs it, "an example";`
macro_rules! commands {
    ($($(#[$doc:meta])* $variant:ident $name:literal $(($args:ty))? => $run:expr, $example:literal;)*) => {
        #[derive(Subcommand)]
        enum Verb {
            $($(#[$doc])*
            #[command(name = $name, after_help = concat!("Example: mqadmin ", $name, $example))]
            $variant $(($args))?,)*
            /// Prints what a shell needs to complete commands, options and names.
            #[command(after_help = "Example: source <(mqadmin completion bash)")]
            Completion { shell: Shell },
        }

        fn run(verb: Verb, s: &mut Session) -> Result {
            match verb {
                $(commands!(@pattern args $variant $(($args))?) => commands!(@run args s $run $(, $args)?),)*
                Verb::Completion { shell } => Ok(completion(shell)?),
            }
        }
    };
    (@pattern $bound:ident $variant:ident ($args:ty)) => { Verb::$variant($bound) };
    (@pattern $bound:ident $variant:ident) => { Verb::$variant };
    (@run $bound:ident $s:ident $run:expr, $args:ty) => { $run($bound, $s) };
    (@run $bound:ident $s:ident $run:expr) => { $run($s) };
}

commands! {
    // topics
    /// Names of all topics.
    TopicList "topicList" (topic::List) => topic::List::run, " -n 127.0.0.1:9876 -c";
    /// Where clients of a topic go.
    TopicRoute "topicRoute" (topic::Route) => topic::Route::run, " -t Orders";
    /// Queues of a topic with first and next offset.
    TopicStatus "topicStatus" (topic::OneTopic) => topic::OneTopic::status, " -t Orders";
    /// Clusters that have a topic.
    TopicClusterList "topicClusterList" (topic::OneTopic) => topic::OneTopic::clusters, " -t Orders";
    /// Makes a topic, or changes it.
    UpdateTopic "updateTopic" (topic::Update) => topic::Update::run, " -c DefaultCluster -t Orders -r 4 -w 4";
    /// Changes what may be done with a topic.
    UpdateTopicPerm "updateTopicPerm" (topic::Perm) => topic::Perm::run, " -c DefaultCluster -t Orders -p 4";
    /// Deletes a topic from a cluster and its name servers.
    DeleteTopic "deleteTopic" (topic::Delete) => topic::Delete::run, " -c DefaultCluster -t Orders";
    /// Queues of an ordered topic, in the name server.
    UpdateOrderConf "updateOrderConf" (topic::Order) => topic::Order::run, " -m put -t Orders -v broker-a:4";
    /// Which client would get which queue.
    AllocateMq "allocateMQ" (topic::Allocate) => topic::Allocate::run, " -t Orders -i 10.0.0.1,10.0.0.2";
    /// Rates and totals of topics and their groups.
    StatsAll "statsAll" (topic::StatsAll) => topic::StatsAll::run, " -a";
    // groups
    /// Makes a group, or changes it.
    UpdateSubGroup "updateSubGroup" (group::Update) => group::Update::run, " -c DefaultCluster -g billing -r 8";
    /// Deletes a group.
    DeleteSubGroup "deleteSubGroup" (group::Delete) => group::Delete::run, " -c DefaultCluster -g billing -r true";
    /// Settings of a group.
    GetConsumerConfig "getConsumerConfig" (group::OneGroup) => group::OneGroup::config, " -g billing";
    /// How far groups are.
    ConsumerProgress "consumerProgress" (group::ProgressArgs) => group::ProgressArgs::run, " -g billing -s";
    /// What consumers tell of themselves.
    ConsumerStatus "consumerStatus" (group::Status) => group::Status::run, " -g billing -i 10.0.0.1@7";
    /// Consumers of a group and its subscriptions.
    ConsumerConnection "consumerConnection" (group::Connection) => group::Connection::run, " -g billing";
    /// Producers of a group.
    ProducerConnection "producerConnection" (group::Producers) => group::Producers::run, " -g shop -t Orders";
    /// All producers of a broker.
    Producer "producer" (group::AllProducers) => group::AllProducers::run, " -b 127.0.0.1:10911";
    /// How far all groups of a broker are.
    BrokerConsumeStats "brokerConsumeStats" (group::BrokerStats) => group::BrokerStats::run, " -b 127.0.0.1:10911";
    // offsets
    /// Has a group go on at a time.
    ResetOffsetByTime "resetOffsetByTime" (offset::Reset) => offset::Reset::run, " -g billing -t Orders -s '10m ago'";
    /// Has a group skip all it has not consumed.
    SkipAccumulatedMessage "skipAccumulatedMessage" (offset::Skip) => offset::Skip::run, " -g billing -t Orders";
    /// Gives a group the offsets of another one.
    CloneGroupOffset "cloneGroupOffset" (offset::Clone) => offset::Clone::run, " -s billing -d audit -t Orders";
    // messages
    /// Sends a message.
    SendMessage "sendMessage" (message::send::Send) => message::send::Send::run, " -t Orders -p hello -k order-17 -c paid";
    /// Reads messages, without a trace of having done so.
    ConsumeMessage "consumeMessage" (message::read::Consume) => message::read::Consume::run, " -t Orders -b broker-a -i 0 -o 5 -c 3";
    /// Shows all messages of a topic.
    PrintMsg "printMsg" (message::read::Print) => message::read::Print::run, " -t Orders -s 'paid || open' -b '1h ago'";
    /// Shows messages of a queue, or counts their tags.
    PrintMsgByQueue "printMsgByQueue" (message::read::PrintQueue) => message::read::PrintQueue::run, " -t Orders -a broker-a -i 0 -p true";
    /// A message by the id that the broker gave.
    QueryMsgById "queryMsgById" (message::find::ById) => message::find::ById::run, " -i 7F00000100002A9F0000000000000000";
    /// Messages by key.
    QueryMsgByKey "queryMsgByKey" (message::find::ByKey) => message::find::ByKey::run, " -t Orders -k order-17";
    /// A message by the id that the producer gave.
    QueryMsgByUniqueKey "queryMsgByUniqueKey" (message::find::ByUniqueKey) => message::find::ByUniqueKey::run, " -t Orders -i 7F000001AEE862AD0000000000000020";
    /// A message by its place.
    QueryMsgByOffset "queryMsgByOffset" (message::find::ByOffset) => message::find::ByOffset::run, " -t Orders -b broker-a -i 0 -o 17";
    /// What clients traced of a message.
    QueryMsgTraceById "queryMsgTraceById" (message::trace::Trace) => message::trace::Trace::run, " -i 7F000001AEE862AD0000000000000020";
    /// Units of a consume queue.
    QueryCq "queryCq" (message::queue::QueryQueue) => message::queue::QueryQueue::run, " -t Orders -q 0 -i 0 -c 5";
    /// Where a message is, by the id that the broker gave.
    DecodeMessageId "decodeMessageId" (message::find::Decode) => message::find::Decode::run, " -i 7F00000100002A9F0000000000000000";
    /// How long sends to a topic take.
    CheckMsgSendRt "checkMsgSendRT" (message::send::CheckRt) => message::send::CheckRt::run, " -t Orders -a 10";
    // brokers
    /// Brokers of the cluster with version and load.
    ClusterList "clusterList" (broker::List) => broker::List::run, " -m";
    /// How long sends to each broker take.
    ClusterRt "clusterRT" (broker::ClusterRt) => broker::ClusterRt::run, " -a 10 -i 0";
    /// What a broker counts and measures.
    BrokerStatus "brokerStatus" (broker::At) => broker::At::status, " -b 127.0.0.1:10911";
    /// Settings of a broker.
    GetBrokerConfig "getBrokerConfig" (broker::At) => broker::At::config, " -b 127.0.0.1:10911";
    /// Changes a setting of a broker; it outlives a restart.
    UpdateBrokerConfig "updateBrokerConfig" (broker::Update) => broker::Update::run, " -b 127.0.0.1:10911 -k fileReservedTime -v 48";
    /// Sends to a broker and tells how long each took.
    SendMsgStatus "sendMsgStatus" (broker::SendStatus) => broker::SendStatus::run, " -b broker-a -c 5";
    /// Removes files of queues whose messages are gone.
    CleanExpiredCq "cleanExpiredCQ" (broker::At) => broker::At::clean_queues, " -b 127.0.0.1:10911";
    /// Removes queues of topics that are gone.
    CleanUnusedTopic "cleanUnusedTopic" (broker::At) => broker::At::clean_topics, " -b 127.0.0.1:10911";
    /// Removes files of the log that are expired.
    DeleteExpiredCommitLog "deleteExpiredCommitLog" (broker::At) => broker::At::delete_expired, " -b 127.0.0.1:10911";
    /// Replication of a broker.
    HaStatus "haStatus" (broker::At) => broker::At::ha_status, " -b 127.0.0.1:10911";
    // name servers
    /// Settings of the name servers.
    GetNamesrvConfig "getNamesrvConfig" => namesrv::get_config, " -n 127.0.0.1:9876";
    /// Changes a setting of the name servers.
    UpdateNamesrvConfig "updateNamesrvConfig" (namesrv::Setting) => namesrv::Setting::set_on_name_servers, " -k orderMessageEnable -v true";
    /// Sets a value of the name servers' table.
    UpdateKvConfig "updateKvConfig" (namesrv::PutKv) => namesrv::PutKv::run, " -s NAMESPACE -k key -v value";
    /// Deletes a value of the name servers' table.
    DeleteKvConfig "deleteKvConfig" (namesrv::DeleteKv) => namesrv::DeleteKv::run, " -s NAMESPACE -k key";
    /// Has clients no longer send to a broker.
    WipeWritePerm "wipeWritePerm" (namesrv::BrokerName) => namesrv::BrokerName::wipe_write_perm, " -b broker-a";
    /// Has clients send to a broker again.
    AddWritePerm "addWritePerm" (namesrv::BrokerName) => namesrv::BrokerName::add_write_perm, " -b broker-a";
    // files
    /// Writes topics and groups to a file.
    ExportMetadata "exportMetadata" (export::Metadata) => export::Metadata::run, " -c DefaultCluster -f /tmp/export";
    /// Writes settings of brokers to a file.
    ExportConfigs "exportConfigs" (export::Configs) => export::Configs::run, " -c DefaultCluster -f /tmp/export";
    // access control
    /// Makes an account, or changes it.
    UpdateAclConfig "updateAclConfig" (acl::Update) => acl::Update::run, " -c DefaultCluster -a shop -s 12345678 -t Orders=PUB";
    /// Deletes an account.
    DeleteAclConfig "deleteAclConfig" (acl::Delete) => acl::Delete::run, " -c DefaultCluster -a shop";
    /// Accounts of brokers, without their keys.
    GetAclConfig "getAclConfig" (acl::At) => acl::At::config, " -b 127.0.0.1:10911";
    /// Versions of the brokers' accounts.
    ClusterAclConfigVersion "clusterAclConfigVersion" (acl::At) => acl::At::versions, " -c DefaultCluster";
    /// Addresses that need no key.
    UpdateGlobalWhiteAddr "updateGlobalWhiteAddr" (acl::White) => acl::White::run, " -c DefaultCluster -g 10.0.0.*";
}

/// What the shell needs, and names of topics and groups, which it gets by asking the cluster.
fn completion(shell: Shell) -> io::Result<()> {
    const NAMES: &str = r#"
_mqadmin_names() {
    local at=() i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in -n | --namesrvAddr) at=(-n "${COMP_WORDS[i + 1]}") ;; esac
    done
    case ${COMP_WORDS[COMP_CWORD - 1]} in
    -t | --topic) COMPREPLY=($(compgen -W "$(mqadmin "${at[@]}" --timeout 1 topicList 2>/dev/null)" -- "$2")) ;;
    -g | --groupName | --consumerGroup)
        COMPREPLY=($(compgen -W "$(mqadmin "${at[@]}" --timeout 1 topicList 2>/dev/null | sed -n 's/^%RETRY%//p')" -- "$2")) ;;
    *) _mqadmin "$@" ;;
    esac
}
complete -F _mqadmin_names -o nosort -o bashdefault -o default mqadmin
"#;
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "mqadmin", &mut out);
    if shell == Shell::Bash {
        out.extend_from_slice(NAMES.as_bytes());
    }
    io::Write::write_all(&mut io::stdout(), &out)
}

pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let name_servers =
        cli.namesrv.split([';', ',']).map(str::trim).filter(|a| !a.is_empty()).map(str::to_owned);
    let out = Output::new(cli.json);
    let security = match cli.security.security_or_tools_yml() {
        Ok(security) => security,
        Err(e) => {
            eprintln!("mqadmin: {e}");
            return ExitCode::from(2);
        }
    };
    let timeout = Duration::from_secs(cli.timeout);
    let mut session = Session::new(out, name_servers.collect(), timeout, security);
    let done = run(cli.verb, &mut session);
    // What was found before a failure is shown.
    let done = done.and(session.out.finish().map_err(Error::from));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Output(e)) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("mqadmin: {e}");
            ExitCode::from(if matches!(e, Error::Usage(_)) { 2 } else { 1 })
        }
    }
}
