// The Go client's part of the interop suite: main NAMESERVER BROKER [SCENARIO...] prints a line for each.
package main

import (
	"context"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/admin"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
	"github.com/apache/rocketmq-client-go/v2/rlog"
)

var (
	nameServer, brokerAddr string
	run                    = strconv.FormatInt(time.Now().UnixMilli(), 36)
	ctx                    = context.Background()
	instances              atomic.Int32
)

type message = primitive.MessageExt

// kit is one scenario: a failure in it ends it by a panic that the runner catches.
type kit struct {
	name    string
	closers []func() error
}

func check(ok bool, format string, args ...any) {
	if !ok {
		panic(fmt.Sprintf(format, args...))
	}
}

func must(err error, what string) {
	check(err == nil, "%s: %v", what, err)
}

func await(seconds int, what string, holds func() bool) {
	for end := time.Now().Add(time.Duration(seconds) * time.Second); !holds(); time.Sleep(20 * time.Millisecond) {
		check(time.Now().Before(end), "after %d s still no %s", seconds, what)
	}
}

// sameSet says what is missing and what is too much.
func sameSet(expected, actual []string, what string) {
	counts := map[string]int{}
	for _, e := range expected {
		counts[e]++
	}
	for _, a := range actual {
		counts[a]--
	}
	var missing, surplus []string
	for value, count := range counts {
		if count > 0 {
			missing = append(missing, value)
		} else if count < 0 {
			surplus = append(surplus, value)
		}
	}
	sort.Strings(missing)
	sort.Strings(surplus)
	check(len(missing)+len(surplus) == 0, "%s: %d of %d; missing %.300v, too many %.300v", what, len(actual), len(expected), missing, surplus)
}

func (k *kit) topic(queues int) string {
	topic := "go_" + k.name + "_" + run
	a, err := admin.NewAdmin(admin.WithResolver(primitive.NewPassthroughResolver([]string{nameServer})))
	must(err, "admin")
	defer a.Close()
	must(a.CreateTopic(ctx, admin.WithTopicCreate(topic), admin.WithBrokerAddrCreate(brokerAddr),
		admin.WithReadQueueNums(queues), admin.WithWriteQueueNums(queues), admin.WithPerm(6)), "create topic")
	await(15, "route of "+topic, func() bool {
		found, err := a.FetchPublishMessageQueues(ctx, topic)
		return err == nil && len(found) == queues
	})
	return topic
}

func (k *kit) producer(options ...producer.Option) rocketmq.Producer {
	p, err := rocketmq.NewProducer(append(options, producer.WithNameServer([]string{nameServer}),
		producer.WithGroupName("go_producer_"+k.name), producer.WithInstanceName(k.instance()), producer.WithSendMsgTimeout(10*time.Second))...)
	must(err, "producer")
	must(p.Start(), "start of the producer")
	k.closers = append(k.closers, p.Shutdown)
	return p
}

// instance makes every client one of its own; otherwise those of a process share connections and an id.
func (k *kit) instance() string {
	return fmt.Sprintf("go-%s-%d", k.name, instances.Add(1))
}

type inbox struct {
	sync.Mutex
	got []*message
}

func (i *inbox) size() int {
	i.Lock()
	defer i.Unlock()
	return len(i.got)
}

func (i *inbox) bodies() (all []string) {
	i.Lock()
	defer i.Unlock()
	for _, m := range i.got {
		all = append(all, string(m.Body))
	}
	return
}

func (i *inbox) expect(bodies []string, what string) {
	for end := time.Now().Add(60 * time.Second); i.size() < len(bodies) && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
	time.Sleep(300 * time.Millisecond) // a surplus delivery would come now
	sameSet(bodies, i.bodies(), what)
}

func (k *kit) consumer(group, topic, tags string, into *inbox, options ...consumer.Option) rocketmq.PushConsumer {
	c, err := rocketmq.NewPushConsumer(append(options, consumer.WithNameServer([]string{nameServer}), consumer.WithGroupName(group),
		consumer.WithInstance(k.instance()), consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset))...)
	must(err, "consumer")
	selector := consumer.MessageSelector{}
	if strings.Contains(tags, " = ") {
		selector = consumer.MessageSelector{Type: consumer.SQL92, Expression: tags}
	} else if tags != "*" {
		selector = consumer.MessageSelector{Type: consumer.TAG, Expression: tags}
	}
	must(c.Subscribe(topic, selector, func(_ context.Context, messages ...*message) (consumer.ConsumeResult, error) {
		into.Lock()
		defer into.Unlock()
		into.got = append(into.got, messages...)
		return consumer.ConsumeSuccess, nil
	}), "subscribe")
	must(c.Start(), "start of the consumer")
	k.closers = append(k.closers, c.Shutdown)
	return c
}

func newMessage(topic, tag, key, body string) *primitive.Message {
	m := primitive.NewMessage(topic, []byte(body))
	if tag != "" {
		m.WithTag(tag)
	}
	m.WithKeys([]string{key})
	return m
}

func (k *kit) send(p rocketmq.Producer, topic, tag, prefix string, count int) (bodies []string) {
	for i := 0; i < count; i++ {
		body := fmt.Sprint(prefix, i)
		result, err := p.SendSync(ctx, newMessage(topic, tag, body, body))
		must(err, "send")
		check(result.Status == primitive.SendOK, "status %v", result.Status)
		bodies = append(bodies, body)
	}
	return
}

// everything reads the whole topic by pulls, queue by queue.
func (k *kit) everything(topic string, queues int) (all []*message) {
	p, err := rocketmq.NewPullConsumer(consumer.WithNameServer([]string{nameServer}), consumer.WithGroupName("go_reader_"+k.name), consumer.WithInstance(k.instance()))
	must(err, "pull consumer")
	must(p.Subscribe(topic, consumer.MessageSelector{Type: consumer.TAG, Expression: "*"}), "subscribe")
	must(p.Start(), "start of the pull consumer")
	k.closers = append(k.closers, p.Shutdown)
	a, err := admin.NewAdmin(admin.WithResolver(primitive.NewPassthroughResolver([]string{nameServer})))
	must(err, "admin")
	defer a.Close()
	found, err := a.FetchPublishMessageQueues(ctx, topic)
	must(err, "queues")
	check(len(found) == queues, "%d queues", len(found))
	for _, queue := range found {
		for next := int64(0); ; {
			result, err := p.PullFrom(ctx, queue, next, 32)
			must(err, "pull")
			check(result.Status == primitive.PullFound, "status %v at %d of %v", result.Status, next, queue)
			for _, m := range result.GetMessageExts() {
				check(m.QueueOffset == next, "offset %d where %d is due in %v", m.QueueOffset, next, queue)
				next++
				all = append(all, m)
			}
			if next >= result.MaxOffset { // a pull here would be held for 20 s
				break
			}
		}
	}
	return
}

func texts(messages []*message) (all []string) {
	for _, m := range messages {
		all = append(all, string(m.Body))
	}
	return
}

func sends(k *kit) {
	topic, p := k.topic(3), k.producer()
	var bodies []string
	results := map[string]*primitive.SendResult{}
	for i := 0; i < 30; i++ {
		body := fmt.Sprintf("sync %d grüß 漢字 🚀", i)
		m := newMessage(topic, "tag", fmt.Sprint("key", i), body)
		m.WithProperty("naïve", "värde "+strconv.Itoa(i))
		m.Flag = int32(i * 1000003)
		result, err := p.SendSync(ctx, m)
		must(err, "send")
		check(result.Status == primitive.SendOK, "status %v", result.Status)
		results[body] = result
		bodies = append(bodies, body)
	}
	big := strings.Repeat("compress me ", 20000)
	_, err := p.SendSync(ctx, newMessage(topic, "tag", "big", big))
	must(err, "big send")
	var done sync.WaitGroup
	var failed atomic.Value
	for i := 0; i < 100; i++ {
		body := fmt.Sprint("async ", i)
		bodies = append(bodies, body)
		done.Add(1)
		must(p.SendAsync(ctx, func(_ context.Context, result *primitive.SendResult, err error) {
			if err != nil || result.Status != primitive.SendOK {
				failed.Store(fmt.Sprint(result, err))
			}
			done.Done()
		}, newMessage(topic, "tag", body, body)), "async send")
	}
	done.Wait()
	check(failed.Load() == nil, "async: %v", failed.Load())
	for i := 0; i < 20; i++ {
		body := fmt.Sprint("oneway ", i)
		bodies = append(bodies, body)
		must(p.SendOneWay(ctx, newMessage(topic, "tag", body, body)), "one-way send")
	}
	bodies = append(bodies, big)
	var stored []*message
	await(15, "151 stored messages", func() bool {
		stored = k.everything(topic, 3)
		return len(stored) >= len(bodies)
	})
	sameSet(bodies, texts(stored), "stored")
	for _, m := range stored {
		if r := results[string(m.Body)]; r != nil {
			i, _ := strconv.Atoi(strings.Fields(string(m.Body))[1])
			check(m.QueueOffset == r.QueueOffset && m.Queue.QueueId == r.MessageQueue.QueueId && m.MsgId == r.MsgID && m.OffsetMsgId == r.OffsetMsgID,
				"place or id of %s: %v, acknowledged %v", m.Body, m, r)
			check(m.GetTags() == "tag" && m.GetKeys() == fmt.Sprint("key", i) && m.GetProperty("naïve") == fmt.Sprint("värde ", i) && m.Flag == int32(i*1000003),
				"tag, key, property or flag of %v", m)
		}
	}
}

func batches(k *kit) {
	topic, p := k.topic(2), k.producer()
	var bodies []string
	for round := 0; round < 5; round++ {
		var batch []*primitive.Message
		for i := 0; i < 20; i++ {
			body := fmt.Sprintf("batch %d/%d", round, i)
			batch = append(batch, newMessage(topic, "tag", fmt.Sprint("key", i), body))
			bodies = append(bodies, body)
		}
		result, err := p.SendSync(ctx, batch...)
		must(err, "batch")
		check(result.Status == primitive.SendOK, "status %v", result.Status)
	}
	var got inbox
	k.consumer("go_batches_"+run, topic, "*", &got)
	got.expect(bodies, "batched messages delivered")
	stored := k.everything(topic, 2)
	sameSet(bodies, texts(stored), "stored")
	for i := 1; i < len(stored); i++ { // a batch stays together, in its order
		var round, n, before, m int
		fmt.Sscanf(string(stored[i-1].Body), "batch %d/%d", &before, &m)
		fmt.Sscanf(string(stored[i].Body), "batch %d/%d", &round, &n)
		check(round == before && n == m+1 || round != before && m == 19 && n == 0, "%s after %s", stored[i].Body, stored[i-1].Body)
	}
}

func orderly(k *kit) {
	topic := k.topic(4)
	p := k.producer(producer.WithQueueSelector(producer.NewHashQueueSelector()))
	var got inbox
	group := "go_orderly_" + run
	k.consumer(group, topic, "*", &got, consumer.WithConsumerOrder(true))
	var bodies []string
	queues := map[string]int{}
	for i := 0; i < 200; i++ {
		order := fmt.Sprint("order", i%9)
		body := fmt.Sprint(order, " ", i)
		m := newMessage(topic, "tag", body, body).WithShardingKey(order)
		result, err := p.SendSync(ctx, m)
		must(err, "send")
		if queue, known := queues[order]; known {
			check(queue == result.MessageQueue.QueueId, "%s went to queue %d and %d", order, queue, result.MessageQueue.QueueId)
		}
		queues[order] = result.MessageQueue.QueueId
		bodies = append(bodies, body)
	}
	got.expect(bodies, "delivered in order mode")
	next := map[int]int64{}
	for _, m := range got.got {
		check(m.QueueOffset == next[m.Queue.QueueId], "queue %d: offset %d where %d is due", m.Queue.QueueId, m.QueueOffset, next[m.Queue.QueueId])
		next[m.Queue.QueueId]++
	}
}

func push(k *kit) {
	topic, group, p := k.topic(6), "go_push_"+run, k.producer()
	var a, b inbox
	first := k.consumer(group, topic, "*", &a)
	k.consumer(group, topic, "*", &b)
	var bodies []string
	// Two members are balanced when each gets some; until then the queues may move, and what moves may come twice.
	await(60, "share for both", func() bool {
		bodies = append(bodies, k.send(p, topic, "t", fmt.Sprint("warm", len(bodies), "-"), 12)...)
		time.Sleep(200 * time.Millisecond)
		return a.size() > 0 && b.size() > 0
	})
	time.Sleep(time.Second)
	unique := func() (all []string) {
		seen := map[string]bool{}
		for _, body := range append(a.bodies(), b.bodies()...) {
			if !seen[body] {
				seen[body] = true
				all = append(all, body)
			}
		}
		return
	}
	await(30, "warm-up deliveries", func() bool { return len(unique()) == len(bodies) })
	before := a.size() + b.size()
	bodies = append(bodies, k.send(p, topic, "t", "m", 300)...)
	await(30, "300 deliveries", func() bool { return a.size()+b.size() >= before+300 })
	time.Sleep(300 * time.Millisecond)
	sameSet(bodies, unique(), "delivered to both")
	check(a.size()+b.size() == before+300, "%d deliveries of 300 to a group at rest", a.size()+b.size()-before)
	// One leaves: the other takes over where it was.
	must(first.Shutdown(), "shutdown")
	more := k.send(p, topic, "t", "more", 60)
	bodies = append(bodies, more...)
	await(60, "deliveries after one has left", func() bool { return len(unique()) >= len(bodies) })
	sameSet(bodies, unique(), "delivered in all")
}

func broadcast(k *kit) {
	topic, group := k.topic(2), "go_broadcast_"+run
	var a, b inbox
	k.consumer(group, topic, "*", &a, consumer.WithConsumerModel(consumer.BroadCasting))
	k.consumer(group, topic, "*", &b, consumer.WithConsumerModel(consumer.BroadCasting))
	bodies := k.send(k.producer(), topic, "t", "m", 50)
	a.expect(bodies, "delivered to the first")
	b.expect(bodies, "delivered to the second")
}

func tags(k *kit) {
	topic, p := k.topic(2), k.producer()
	expected := append(k.send(p, topic, "a", "a", 15), k.send(p, topic, "b", "b", 15)...)
	k.send(p, topic, "c", "c", 15)
	k.send(p, topic, "", "none", 15)
	expected = append(expected, k.send(p, topic, "a", "again", 5)...)
	var got inbox
	k.consumer("go_tags_"+run, topic, "a || b", &got)
	got.expect(expected, "delivered by tag")
}

func sql(k *kit) {
	topic, p := k.topic(2), k.producer()
	var expected []string
	for i := 0; i < 40; i++ {
		body := fmt.Sprint("m", i)
		m := newMessage(topic, "t", body, body)
		m.WithProperty("n", fmt.Sprint(i))
		m.WithProperty("region", []string{"eu", "us"}[i%2])
		_, err := p.SendSync(ctx, m)
		must(err, "send")
		if i%2 == 0 && i >= 10 && i <= 19 {
			expected = append(expected, body)
		}
	}
	var got inbox
	k.consumer("go_sql_"+run, topic, "region = 'eu' AND n BETWEEN 10 AND 19", &got)
	got.expect(expected, "delivered by expression")
}

func delay(k *kit) {
	topic, p := k.topic(1), k.producer()
	var got inbox
	k.consumer("go_delay_"+run, topic, "*", &got)
	expected := k.send(p, topic, "t", "warm", 1)
	await(30, "warm-up delivery", func() bool { return got.size() == 1 })
	start := time.Now()
	_, err := p.SendSync(ctx, newMessage(topic, "t", "k", "late").WithDelayTimeLevel(2))
	must(err, "send")
	await(30, "delayed message", func() bool { return got.size() == 2 })
	waited := time.Since(start)
	check(waited > 4900*time.Millisecond && waited < 8*time.Second, "level 2 came after %v", waited)
	got.expect(append(expected, "late"), "delivered")
}

// decider does with a transaction what its body says, at once or when it is asked.
type decider struct{ asked atomic.Int32 }

func (d *decider) ExecuteLocalTransaction(m *primitive.Message) primitive.LocalTransactionState {
	if strings.HasPrefix(string(m.Body), "later") {
		return primitive.UnknowState
	}
	return decide(m.Body)
}

func (d *decider) CheckLocalTransaction(m *message) primitive.LocalTransactionState {
	d.asked.Add(1)
	return decide(m.Body)
}

func decide(body []byte) primitive.LocalTransactionState {
	if strings.Contains(string(body), "commit") {
		return primitive.CommitMessageState
	}
	return primitive.RollbackMessageState
}

func transaction(k *kit) {
	topic := k.topic(1)
	var decides decider
	p, err := rocketmq.NewTransactionProducer(&decides, producer.WithNameServer([]string{nameServer}),
		producer.WithGroupName("go_transaction_"+run), producer.WithInstanceName(k.instance()))
	must(err, "producer")
	must(p.Start(), "start of the producer")
	k.closers = append(k.closers, p.Shutdown)
	var got inbox
	k.consumer("go_committed_"+run, topic, "*", &got)
	for _, body := range []string{"commit", "rollback", "later commit", "later rollback"} {
		_, err := p.SendMessageInTransaction(ctx, newMessage(topic, "t", "k", body))
		must(err, "send")
	}
	shown := func() (all []string) {
		seen := map[string]bool{}
		for _, body := range got.bodies() { // Java's brokers may deliver twice what they ask about while they write it
			if !seen[body] {
				seen[body] = true
				all = append(all, body)
			}
		}
		return
	}
	await(60, "question about each", func() bool { return decides.asked.Load() >= 2 })
	await(60, "committed message", func() bool { return len(shown()) >= 2 })
	time.Sleep(time.Second)
	sameSet([]string{"commit", "later commit"}, shown(), "committed")
}

func trace(k *kit) {
	topic, group := k.topic(1), "go_trace_"+run
	traced := &primitive.TraceConfig{Access: primitive.Local, Resolver: primitive.NewPassthroughResolver([]string{nameServer})}
	result, err := k.producer(producer.WithTrace(traced)).SendSync(ctx, newMessage(topic, "t", "k", "traced"))
	must(err, "send")
	var got inbox
	k.consumer(group, topic, "*", &got, consumer.WithTrace(traced))
	got.expect([]string{"traced"}, "delivered")
	await(60, "traces", func() bool {
		all := strings.Join(texts(k.everything("RMQ_SYS_TRACE_TOPIC", 1)), "")
		for _, part := range []string{result.MsgID, "Pub\x01", "SubBefore\x01", group} {
			if !strings.Contains(all, part) {
				return false
			}
		}
		return true
	})
}

func retry(k *kit) {
	topic := k.topic(1)
	group := "go_retry_" + run
	var lock sync.Mutex
	tries := map[string][]int32{}
	// The retry topic is born with the first member; only a member that starts after it needs no route poll (30 s) to see it.
	var none inbox
	k.consumer(group, topic, "*", &none)
	a, err := admin.NewAdmin(admin.WithResolver(primitive.NewPassthroughResolver([]string{nameServer})))
	must(err, "admin")
	await(30, "route of the retry topic", func() bool {
		found, err := a.FetchPublishMessageQueues(ctx, "%RETRY%"+group)
		return err == nil && len(found) > 0
	})
	must(a.Close(), "close")
	must(k.closers[len(k.closers)-1](), "shutdown of the first member")
	c, err := rocketmq.NewPushConsumer(consumer.WithNameServer([]string{nameServer}), consumer.WithGroupName(group), consumer.WithInstance(k.instance()),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset), consumer.WithMaxReconsumeTimes(5))
	must(err, "consumer")
	must(c.Subscribe(topic, consumer.MessageSelector{}, func(cx context.Context, messages ...*message) (consumer.ConsumeResult, error) {
		lock.Lock()
		defer lock.Unlock()
		for _, m := range messages {
			tries[string(m.Body)] = append(tries[string(m.Body)], m.ReconsumeTimes)
			if strings.HasPrefix(string(m.Body), "dead") || strings.HasPrefix(string(m.Body), "bad") && len(tries[string(m.Body)]) < 3 {
				if c, ok := primitive.GetConcurrentlyCtx(cx); ok {
					c.DelayLevelWhenNextConsume = 1
				}
				return consumer.ConsumeRetryLater, nil
			}
		}
		return consumer.ConsumeSuccess, nil
	}), "subscribe")
	must(c.Start(), "start")
	k.closers = append(k.closers, c.Shutdown)
	k.send(k.producer(), topic, "t", "good", 5)
	k.send(k.producer(), topic, "t", "bad", 1)
	k.send(k.producer(), topic, "t", "dead", 1)
	for i := 0; i < 600; i++ {
		time.Sleep(100 * time.Millisecond)
		lock.Lock()
		done := len(tries["bad0"]) >= 3 && len(tries["dead0"]) >= 6 && len(tries) == 7
		lock.Unlock()
		if done {
			break
		}
	}
	time.Sleep(1500 * time.Millisecond)
	lock.Lock()
	defer lock.Unlock()
	for body, times := range tries {
		want := "[0]"
		if body == "bad0" {
			want = "[0 1 2]"
		} else if body == "dead0" {
			want = "[0 1 2 3 4 5]"
		}
		check(fmt.Sprint(times) == want, "reconsumeTimes of %s: %v", body, times)
	}
	sameSet([]string{"dead0"}, texts(k.everything("%DLQ%"+group, 1)), "dead letters")
}

// acl signs; it needs a broker with the accounts that run gives it.
func acl(k *kit) {
	topic, group := "go_acl_"+run, "go_acl_"+run
	as := func(name, secret string) rocketmq.Producer {
		return k.producer(producer.WithCredentials(primitive.Credentials{AccessKey: name, SecretKey: secret}), producer.WithRetry(0))
	}
	denied := func(p rocketmq.Producer, why string) {
		result, err := p.SendSync(ctx, newMessage(topic, "t", "k", "denied"))
		check(err != nil && strings.Contains(err.Error(), why), "expected %s, got %v, %v", why, result, err)
	}
	owner := as("theAdmin", "adminSecret")
	var bodies []string
	for i := 0; i < 20; i++ {
		bodies = append(bodies, k.send(owner, topic, "t", fmt.Sprint("m", i, "-"), 1)...)
	}
	denied(as("someUser", "userSecret"), "No default permission for topic:"+topic)
	denied(as("theAdmin", "otherSecret"), "Check signature failed for accessKey=theAdmin")
	denied(as("someBody", "userSecret"), "No acl config for someBody")
	denied(k.producer(), "No accessKey is configured")
	var got inbox
	k.consumer(group, topic, "*", &got, consumer.WithCredentials(primitive.Credentials{AccessKey: "theAdmin", SecretKey: "adminSecret"}))
	await(40, "deliveries", func() bool { return got.size() >= len(bodies) })
	sameSet(bodies, got.bodies(), "delivered")
}

func main() {
	rlog.SetLogLevel("fatal")
	nameServer, brokerAddr = os.Args[1], os.Args[2]
	scenarios := map[string]func(*kit){"send": sends, "batch": batches, "orderly": orderly, "push": push, "broadcast": broadcast, "tags": tags, "retry": retry,
		"sql": sql, "delay": delay, "transaction": transaction, "trace": trace}
	if os.Getenv("ACL") != "" {
		scenarios = map[string]func(*kit){"acl": acl}
	}
	var all sync.WaitGroup
	var bad atomic.Bool
	for name, scenario := range scenarios {
		wanted := len(os.Args) == 3
		for _, prefix := range os.Args[3:] {
			wanted = wanted || strings.HasPrefix("go/"+name, prefix)
		}
		if !wanted {
			continue
		}
		all.Add(1)
		go func(name string, scenario func(*kit)) {
			defer all.Done()
			k, start := &kit{name: name}, time.Now()
			defer func() {
				failure := recover()
				seconds := time.Since(start).Seconds()
				for i := len(k.closers) - 1; i >= 0; i-- {
					_ = k.closers[i]()
				}
				if failure != nil {
					bad.Store(true)
					fmt.Printf("FAIL go/%s %.1f\n     %v\n", name, seconds, failure)
				} else {
					fmt.Printf("ok   go/%s %.1f\n", name, seconds)
				}
			}()
			scenario(k)
		}(name, scenario)
	}
	all.Wait()
	if bad.Load() {
		os.Exit(1)
	}
}
