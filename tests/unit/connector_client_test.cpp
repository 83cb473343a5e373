// Callbacks, sending, requests and losses of a Client, with a fake connector that the test controls.
#include "connector_support.hpp"

#include <dmaflow/connector.hpp>

#include <cerrno>
#include <random>

namespace dmaflow::connector {

struct Temperature {
  std::int32_t millidegrees;
};
template <>
struct PayloadTraits<Temperature> {
  static constexpr CbId id{12, 1};
  static std::optional<Temperature> parse(std::span<const std::byte> payload) {
    return payload.size() == sizeof(Temperature) ? read_at<Temperature>(payload) : std::nullopt;
  }
};

namespace {

using namespace std::chrono_literals;
using test::Bytes;
using test::bytes_of;
using test::cn;
using test::must;
using test::netlink;
using test::text_of;

constexpr CbId id{12, 1};
constexpr CbId other{12, 2};

class ConnectorClient : public testing::Test {
 protected:
  explicit ConnectorClient(const ClientOptions& options = {}) {
    Fd socket = kernel_.socket();
    client_ = must(Client::adopt(socket, options));
  }
  void arrive(CbId to, const std::string& text, std::uint32_t seq = 0, std::uint32_t ack = 0) {
    kernel_.arrive(netlink({cn(to, seq, ack, bytes_of(text))}));
  }
  void dispatch() { must(client_->dispatch(POLLIN)); }

  test::PretendConnector kernel_;
  std::unique_ptr<Client> client_;
  std::string heard_;
};

// --- Callbacks -------------------------------------------------------------------------------------------------------

TEST_F(ConnectorClient, EachMessageGoesToItsSubscribersInOrder) {
  const auto a =
      client_->subscribe(id, [&](const Message& message) { heard_ += "a:" + text_of(message.payload) + " "; });
  const auto b =
      client_->subscribe(id, [&](const Message& message) { heard_ += "b:" + text_of(message.payload) + " "; });
  const auto c = client_->subscribe(other, [&](const Message&) { heard_ += "c "; });
  arrive(id, "1");
  arrive(other, "2");
  kernel_.arrive(netlink({cn(id, 0, 0, bytes_of("3")), cn(other, 0, 0, {})}));
  dispatch();
  EXPECT_EQ(heard_, "a:1 b:1 c a:3 b:3 c ");
  EXPECT_EQ(client_->counters().messages, 4U);
  EXPECT_EQ(client_->counters().datagrams, 3U);
}

TEST_F(ConnectorClient, WhatNobodyTakesGoesToTheDefaultHandler) {
  arrive(id, "before");
  dispatch();
  client_->set_default_handler([&](const Message& message) { heard_ += text_of(message.payload); });
  arrive(id, "unknown");
  dispatch();
  EXPECT_EQ(heard_, "unknown");
  EXPECT_EQ(client_->counters().unhandled, 2U);
}

TEST_F(ConnectorClient, TypedPayloadsArriveAsTheirType) {
  int degrees = 0;
  const auto token =
      client_->subscribe<Temperature>([&](const Temperature& value, const Message&) { degrees = value.millidegrees; });
  Bytes payload;
  test::append(payload, std::int32_t{-4500});
  kernel_.arrive(netlink({cn(id, 0, 0, payload)}));
  arrive(id, "nonsense");
  client_->set_default_handler([&](const Message& message) { heard_ += text_of(message.payload); });
  dispatch();
  EXPECT_EQ(degrees, -4500);
  EXPECT_EQ(heard_, "nonsense");
  EXPECT_EQ(client_->counters().undecodable, 1U);
}

TEST_F(ConnectorClient, ACallbackMayEndItself) {
  Subscription token;
  token = client_->subscribe(id, [&](const Message& message) {
    heard_ += text_of(message.payload);
    token.end();
    heard_ += "!";  // its captures still exist
    EXPECT_FALSE(token.is_active());
  });
  arrive(id, "1");
  arrive(id, "2");
  dispatch();
  EXPECT_EQ(heard_, "1!");
}

TEST_F(ConnectorClient, ACallbackMayEndOthersBeforeAndAfterIt) {
  Subscription before = client_->subscribe(id, [&](const Message&) { heard_ += "before "; });
  Subscription after;
  const auto middle = client_->subscribe(id, [&](const Message&) {
    heard_ += "middle ";
    before.end();
    after.end();
  });
  after = client_->subscribe(id, [&](const Message&) { heard_ += "after "; });
  arrive(id, "1");
  arrive(id, "2");
  dispatch();
  EXPECT_EQ(heard_, "before middle middle ");
}

TEST_F(ConnectorClient, ACallbackMayDestroyTheTokenItIsCalledThrough) {
  auto token = std::make_unique<Subscription>();
  const auto alive = std::make_shared<int>(1);
  *token = client_->subscribe(id, [&, alive](const Message&) {
    token.reset();
    heard_ += std::to_string(*alive);
  });
  arrive(id, "1");
  arrive(id, "2");
  dispatch();
  EXPECT_EQ(heard_, "1");
  EXPECT_EQ(alive.use_count(), 1) << "the callback itself is gone";
}

TEST_F(ConnectorClient, ASubscriptionMadeInACallbackBeginsWithTheNextMessage) {
  std::vector<Subscription> more;
  const auto token = client_->subscribe(id, [&](const Message& message) {
    heard_ += "old:" + text_of(message.payload) + " ";
    if (more.size() < 50) {
      more.push_back(
          client_->subscribe(id, [&](const Message& next) { heard_ += "new:" + text_of(next.payload) + " "; }));
    }
  });
  arrive(id, "1");
  dispatch();
  EXPECT_EQ(heard_, "old:1 ");
  arrive(id, "2");
  dispatch();
  EXPECT_EQ(heard_, "old:1 old:2 new:2 ");
}

TEST_F(ConnectorClient, ACallbackThatHoldsTokensLetsThemGoWithItself) {
  auto inner = client_->subscribe(other, [&](const Message&) { heard_ += "inner "; });
  auto outer = client_->subscribe(id, [held = std::move(inner)](const Message&) { (void)held; });
  arrive(other, "");
  dispatch();
  outer.end();
  arrive(other, "");
  dispatch();
  EXPECT_EQ(heard_, "inner ");
}

TEST_F(ConnectorClient, ACallbackMayDestroyTheClient) {
  const auto token = client_->subscribe(id, [&](const Message&) {
    heard_ += "once";
    client_.reset();
  });
  arrive(id, "1");
  arrive(id, "2");
  EXPECT_TRUE(client_->dispatch(POLLIN));
  EXPECT_EQ(heard_, "once");
  EXPECT_FALSE(token.is_active());
}

TEST_F(ConnectorClient, ATokenMayOutliveTheClient) {
  auto token = client_->subscribe(id, [](const Message&) {});
  EXPECT_TRUE(token.is_active());
  client_.reset();
  EXPECT_FALSE(token.is_active());
  token.end();
}

TEST_F(ConnectorClient, TheDefaultHandlerMayReplaceItself) {
  client_->set_default_handler([&](const Message&) {
    heard_ += "first ";
    client_->set_default_handler([&](const Message&) { heard_ += "second "; });
    heard_ += "still ";
  });
  arrive(id, "");
  arrive(id, "");
  dispatch();
  EXPECT_EQ(heard_, "first still second ");
}

TEST_F(ConnectorClient, DispatchAndAskInACallbackAreRefused) {
  const auto token = client_->subscribe(id, [&](const Message&) {
    EXPECT_TRUE(test::fails_with(client_->dispatch(POLLIN), EDEADLK));
    EXPECT_TRUE(test::fails_with(client_->ask({.id = other}, match::Documented{}, Deadline::after(1s)), EDEADLK));
    heard_ += "called";
  });
  arrive(id, "");
  dispatch();
  EXPECT_EQ(heard_, "called");
}

// --- Which senders are heard -----------------------------------------------------------------------------------------

TEST_F(ConnectorClient, OtherProgramsAreRejectedAndCounted) {
  const auto token = client_->subscribe(id, [&](const Message& message) { heard_ += text_of(message.payload); });
  kernel_.arrive(netlink({cn(id, 0, 0, bytes_of("forged"))}), 4711);
  arrive(id, "true");
  dispatch();
  EXPECT_EQ(heard_, "true");
  EXPECT_EQ(client_->counters().foreign, 1U);
  EXPECT_EQ(client_->counters().messages, 1U);
}

class ConnectorClientOfAll : public ConnectorClient {
 protected:
  ConnectorClientOfAll() : ConnectorClient({.datagram_bytes = 100, .batch = 4, .accept_programs = true}) {}
};

TEST_F(ConnectorClientOfAll, OtherProgramsAreHeardWhereAskedFor) {
  const auto token = client_->subscribe(id, [&](const Message& message) {
    heard_ += std::to_string(message.origin.port) + "/" + std::to_string(message.origin.group);
  });
  kernel_.arrive(netlink({cn(id, 0, 0, {})}), 4711, 1U << 11U);
  dispatch();
  EXPECT_EQ(heard_, "4711/12");
}

TEST_F(ConnectorClientOfAll, DatagramsThatAreTooLongOrMalformedAreCounted) {
  const auto token =
      client_->subscribe(id, [&](const Message& message) { heard_ += text_of(message.payload).substr(0, 1); });
  kernel_.arrive(netlink({cn(id, 0, 0, bytes_of("a")), cn(id, 0, 0, bytes_of(std::string(70, 'b')))}));
  kernel_.arrive(Bytes(36));
  kernel_.arrive({});
  arrive(id, "c");
  dispatch();
  EXPECT_EQ(heard_, "ac");
  EXPECT_EQ(client_->counters().truncated, 1U);
  EXPECT_EQ(client_->counters().malformed, 2U);
}

TEST_F(ConnectorClientOfAll, ManyDatagramsTakeOneCallForEachBatch) {
  for (int i = 0; i < 9; ++i) arrive(id, "");
  dispatch();
  EXPECT_EQ(kernel_.receive_calls, 3U) << "4 + 4 + 1, and a batch that is not full says that there is no more";
  EXPECT_EQ(client_->counters().messages, 9U);
}

TEST(ConnectorOptions, OutOfRangeIsRefusedAndTheSocketStaysTheCallers) {
  test::PretendConnector kernel;
  Fd socket = kernel.socket();
  for (const ClientOptions& options :
       {ClientOptions{.datagram_bytes = 35}, ClientOptions{.datagram_bytes = (1U << 20U) + 1},
        ClientOptions{.batch = 0}, ClientOptions{.batch = 1025}, ClientOptions{.receive_buffer = 0x80000000U}}) {
    EXPECT_TRUE(test::fails_with(Client::adopt(socket, options), EINVAL));
    EXPECT_TRUE(socket);
  }
}

TEST(ConnectorOptions, WhatIsNoConnectorIsNotAdopted) {
  Fd none;
  EXPECT_TRUE(test::fails_with(Client::adopt(none), EBADF));
  Fd unix_socket = Fd::adopt(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  Fd route = Fd::adopt(::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_ROUTE));
  Fd event = Fd::adopt(::eventfd(0, EFD_CLOEXEC));
  for (Fd* fd : {&unix_socket, &route, &event}) {
    EXPECT_TRUE(test::fails_with(Client::adopt(*fd), EINVAL));
    EXPECT_TRUE(*fd);
  }
}

// --- Sending ---------------------------------------------------------------------------------------------------------

TEST_F(ConnectorClient, AMessageGoesAsItWasGiven) {
  const Bytes payload = bytes_of("payload");
  must(client_->send({.id = id, .payload = payload, .flags = 9, .numbers = {.seq = 1, .ack = 2}}));
  ASSERT_EQ(kernel_.sent.size(), 1U);
  EXPECT_EQ(kernel_.sent[0].id, id);
  EXPECT_EQ(kernel_.sent[0].seq, 1U);
  EXPECT_EQ(kernel_.sent[0].ack, 2U);
  EXPECT_EQ(kernel_.sent[0].flags, 9U);
  EXPECT_EQ(kernel_.sent[0].payload, payload);
}

TEST_F(ConnectorClient, ManyGoWithOneCallForEach128) {
  std::vector<Outgoing> many(300, Outgoing{.id = id});
  for (std::uint32_t i = 0; i < many.size(); ++i) many[i].numbers.seq = i;
  EXPECT_EQ(must(client_->send(many)), 300U);
  EXPECT_EQ(kernel_.send_calls, 3U);
  for (std::uint32_t i = 0; i < 300; ++i) EXPECT_EQ(kernel_.sent[i].seq, i);
  EXPECT_EQ(must(client_->send(std::span<const Outgoing>{})), 0U);
  EXPECT_EQ(kernel_.send_calls, 3U);
}

TEST_F(ConnectorClient, AKernelThatTakesFewIsGivenTheRest) {
  kernel_.take_at_most = 7;
  const std::vector<Outgoing> many(20, Outgoing{.id = id});
  EXPECT_EQ(must(client_->send(many)), 20U);
  EXPECT_EQ(kernel_.sent.size(), 20U);
}

TEST_F(ConnectorClient, TooLongAPayloadIsRefusedBeforeAnythingGoes) {
  const Bytes largest(max_payload);
  const Bytes too_long(max_payload + 1);
  const std::vector<Outgoing> two{{.id = id}, {.id = id, .payload = too_long}};
  const auto result = client_->send(two);
  ASSERT_TRUE(test::fails_with(result, EMSGSIZE));
  EXPECT_NE(result.error().message().find("at most 16364"), std::string::npos) << result.error().message();
  EXPECT_EQ(kernel_.send_calls, 0U);
  EXPECT_TRUE(client_->send({.id = id, .payload = largest}));
}

TEST_F(ConnectorClient, AForeignNetworkNamespaceIsNamed) {
  kernel_.send_error = ECONNREFUSED;
  const auto result = client_->send({.id = id});
  ASSERT_TRUE(test::fails_with(result, ECONNREFUSED));
  EXPECT_NE(result.error().message().find("network namespace"), std::string::npos) << result.error().message();
}

// --- Requests --------------------------------------------------------------------------------------------------------

TEST_F(ConnectorClient, ARequestFindsItsReplyAmongOtherMessages) {
  const auto token =
      client_->subscribe(id, [&](const Message& message) { heard_ += "news:" + text_of(message.payload) + " "; });
  kernel_.on_send = [&](const auto& sent) {
    arrive(id, "other seq", sent.seq + 1, sent.ack + 1);
    arrive(id, "other ack", sent.seq, sent.ack);
    arrive(id, "reply", sent.seq, sent.ack + 1);
  };
  const auto parts = must(client_->ask({.id = id}, match::Documented{}, Deadline::after(5s)));
  ASSERT_EQ(parts.size(), 1U);
  EXPECT_EQ(text_of(parts[0].message.payload), "reply");
  EXPECT_EQ(heard_, "news:other seq news:other ack ") << "not the same numbers: messages in their own right";
}

TEST_F(ConnectorClient, ManyRequestsInFlightEachGetTheirOwn) {
  std::vector<std::pair<std::uint32_t, std::uint32_t>> numbers;
  kernel_.on_send = [&](const auto& sent) { numbers.emplace_back(sent.seq, sent.ack); };
  std::vector<Subscription> tokens;
  std::vector<std::string> answers(100);
  for (std::size_t i = 0; i < answers.size(); ++i) {
    tokens.push_back(
        must(client_->request({.id = id}, match::Documented{}, Deadline::after(60s),
                              [&answers, i](const Reply& reply) { answers[i] = text_of(reply.message.payload); })));
  }
  for (std::size_t i = numbers.size(); i-- > 0;) arrive(id, std::to_string(i), numbers[i].first, numbers[i].second + 1);
  dispatch();
  for (std::size_t i = 0; i < answers.size(); ++i) {
    EXPECT_EQ(answers[i], std::to_string(i));
    EXPECT_FALSE(tokens[i].is_active()) << "a request that is over";
    for (std::size_t k = 0; k < i; ++k) EXPECT_NE(numbers[i].first, numbers[k].first) << "seq is unique";
  }
}

TEST_F(ConnectorClient, AcksAreRandomAndNeverNextToTheSeq) {
  std::set<std::uint32_t> acks;
  kernel_.on_send = [&](const auto& sent) {
    acks.insert(sent.ack);
    EXPECT_GE(sent.ack - sent.seq, 2U);
  };
  for (int i = 0; i < 100; ++i)
    (void)must(client_->request({.id = id}, match::Documented{}, Deadline::immediate(), [](const Reply&) {}));
  EXPECT_EQ(acks.size(), 100U);
}

TEST_F(ConnectorClient, RepliesInPartsEndWithTheLast) {
  kernel_.on_send = [&](const auto& sent) {
    arrive(ids::w1, "data 1", sent.seq, sent.seq + 1);
    arrive(ids::w1, "data 2", sent.seq, sent.seq + 1);
    arrive(ids::w1, "status", sent.seq, sent.ack);
    arrive(ids::w1, "late", sent.seq, sent.ack);
  };
  const auto parts = must(client_->ask({.id = ids::w1}, match::W1{}, Deadline::after(5s)));
  ASSERT_EQ(parts.size(), 3U);
  EXPECT_EQ(text_of(parts[2].message.payload), "status");
  EXPECT_EQ(client_->counters().unhandled, 1U) << "what comes after the last belongs to nobody";
}

TEST_F(ConnectorClient, ATimeOutIsAnOrdinaryError) {
  const auto result = client_->ask({.id = id}, match::Documented{}, Deadline::after(1ms));
  ASSERT_TRUE(test::fails_with(result, ETIMEDOUT));
  EXPECT_NE(result.error().message().find("12.1"), std::string::npos) << result.error().message();
}

TEST_F(ConnectorClient, TheDescriptorBecomesReadableWhenARequestIsDue) {
  std::string end;
  const auto token =
      must(client_->request({.id = id}, match::Documented{}, Deadline::after(1ms), [&](const Reply& reply) {
        end += reply.kind == Reply::Kind::timed_out ? "timed out" : "?";
      }));
  EXPECT_EQ(sys::wait(client_->poll_fd(), POLLIN, Deadline::after(10s)), POLLIN);
  while (end.empty()) dispatch();
  EXPECT_EQ(end, "timed out");
  EXPECT_FALSE(token.is_active());
  EXPECT_EQ(sys::wait(client_->poll_fd(), POLLIN, Deadline::immediate()), 0) << "and not for ever";
}

TEST_F(ConnectorClient, ACancelledAskEnds) {
  const auto cancel = must(Cancel::create());
  cancel.cancel();
  EXPECT_TRUE(
      test::fails_with(client_->ask({.id = id}, match::Documented{}, Deadline::after(60s), &cancel), ECANCELED));
}

TEST_F(ConnectorClient, ARequestWhoseTokenIsGoneHearsNothing) {
  std::uint32_t seq = 0;
  std::uint32_t ack = 0;
  kernel_.on_send = [&](const auto& sent) { seq = sent.seq, ack = sent.ack; };
  {
    const auto token = must(
        client_->request({.id = id}, match::Documented{}, Deadline::after(60s), [&](const Reply&) { heard_ += "?"; }));
  }
  arrive(id, "late", seq, ack + 1);
  dispatch();
  EXPECT_EQ(heard_, "");
}

TEST_F(ConnectorClient, ARequestMayBeMadeWhereOneEnds) {
  kernel_.on_send = [&](const auto& sent) { arrive(id, "r", sent.seq, sent.ack + 1); };
  std::vector<Subscription> tokens;
  std::function<void()> again = [&] {
    tokens.push_back(must(client_->request({.id = id}, match::Documented{}, Deadline::after(60s), [&](const Reply&) {
      heard_ += ".";
      if (heard_.size() < 5) again();
    })));
  };
  again();
  for (int i = 0; i < 5; ++i) dispatch();
  EXPECT_EQ(heard_, ".....");
}

TEST_F(ConnectorClient, ARequestThatCannotBeSentIsNoRequest) {
  kernel_.send_error = ENOBUFS;
  EXPECT_TRUE(test::fails_with(
      client_->request({.id = id}, match::Documented{}, Deadline::after(60s), [&](const Reply&) { heard_ += "?"; }),
      ENOBUFS));
  dispatch();
  EXPECT_EQ(heard_, "");
}

// --- Answers ---------------------------------------------------------------------------------------------------------

TEST_F(ConnectorClient, QuestionsOfTheKernelAreAnsweredByTheProtocolsRule) {
  const auto documented = client_->respond<answer::Documented>(id, [](const Message& question, const Answerer& to) {
    EXPECT_TRUE(to.answer(question.payload));
    EXPECT_TRUE(test::fails_with(to.refuse(EIO), EOPNOTSUPP));
  });
  const auto same = client_->respond<answer::SameNumbers>(
      ids::v86d, [](const Message&, const Answerer& to) { EXPECT_TRUE(to.answer({})); });
  arrive(id, "echo", 5, 6);
  arrive(ids::v86d, "", 7, 8);
  dispatch();
  ASSERT_EQ(kernel_.sent.size(), 2U);
  EXPECT_EQ(kernel_.sent[0].seq, 5U);
  EXPECT_EQ(kernel_.sent[0].ack, 7U);
  EXPECT_EQ(text_of(kernel_.sent[0].payload), "echo");
  EXPECT_EQ(kernel_.sent[1].seq, 7U);
  EXPECT_EQ(kernel_.sent[1].ack, 8U);
}

TEST_F(ConnectorClient, AnAnswerMayComeLaterOrBeARefusal) {
  std::vector<Answerer> later;
  const auto token =
      client_->respond<answer::DmLog>(ids::dm_log, [&](const Message&, const Answerer& to) { later.push_back(to); });
  arrive(ids::dm_log, "?", 41, 0);
  dispatch();
  ASSERT_EQ(later.size(), 1U);
  EXPECT_TRUE(later[0].refuse(ENOSYS));
  ASSERT_EQ(kernel_.sent.size(), 1U);
  EXPECT_EQ(kernel_.sent[0].seq, 41U);
  EXPECT_EQ(kernel_.sent[0].ack, static_cast<std::uint32_t>(ENOSYS));
  EXPECT_TRUE(kernel_.sent[0].payload.empty());
  EXPECT_TRUE(test::fails_with(later[0].refuse(-1), EINVAL));
  client_.reset();
  EXPECT_TRUE(test::fails_with(later[0].answer({}), ENODEV));
}

// --- Matchers --------------------------------------------------------------------------------------------------------

Message with(CbId from, std::uint32_t seq, std::uint32_t ack, std::span<const std::byte> payload = {}) {
  return {.id = from, .seq = seq, .ack = ack, .payload = payload};
}

TEST(ConnectorMatch, TheTableOfProtocols) {
  const Sent sent{.id = id, .seq = 10, .ack = 0xffffffffU};
  EXPECT_EQ(match::Documented{}(sent, with(id, 10, 0)), Match::last) << "acks wrap around";
  EXPECT_EQ(match::Documented{}(sent, with(id, 10, 1)), Match::no);
  EXPECT_EQ(match::Documented{}(sent, with(id, 11, 0)), Match::no);
  EXPECT_EQ(match::Documented{}(sent, with(other, 10, 0)), Match::no);

  EXPECT_EQ(match::SameNumbers{}(sent, with(id, 10, 0xffffffffU)), Match::last);
  EXPECT_EQ(match::SameNumbers{}(sent, with(id, 10, 0)), Match::no);
}

TEST(ConnectorMatch, ProcessControlLooksAtTheAckAndTheEventAlone) {
  const Sent sent{.id = ids::process, .seq = 10, .ack = 99};
  Bytes none(40);
  Bytes fork(40);
  fork[0] = std::byte{1};
  EXPECT_EQ(match::ProcessControl{}(sent, with(ids::process, 12345, 100, none)), Match::last);
  EXPECT_EQ(match::ProcessControl{}(sent, with(ids::process, 10, 99, none)), Match::no);
  EXPECT_EQ(match::ProcessControl{}(sent, with(ids::process, 10, 100, fork)), Match::no);
  EXPECT_EQ(match::ProcessControl{}(sent, with(ids::process, 10, 100)), Match::no);
}

TEST(ConnectorMatch, W1HasDataAndOneStatusForEachCommand) {
  const Sent sent{.id = ids::w1, .seq = 10, .ack = 50};
  match::W1 matcher{.statuses = 2};
  EXPECT_EQ(matcher(sent, with(ids::w1, 10, 11)), Match::part);
  EXPECT_EQ(matcher(sent, with(ids::w1, 10, 50)), Match::part);
  EXPECT_EQ(matcher(sent, with(ids::w1, 10, 12)), Match::no);
  EXPECT_EQ(matcher(sent, with(ids::w1, 0, 0)), Match::no);
  EXPECT_EQ(matcher(sent, with(ids::w1, 10, 50)), Match::last);
}

TEST(ConnectorMatch, W1ListOfMastersIsDataAlone) {
  const Sent sent{.id = ids::w1, .seq = 10, .ack = 50};
  EXPECT_EQ(match::W1{.statuses = 0}(sent, with(ids::w1, 10, 11)), Match::last);
  EXPECT_EQ(match::W1{.statuses = 0}(sent, with(ids::w1, 10, 50)), Match::last) << "a refusal";
}

TEST(ConnectorMatch, DmLogGoesByTheSeqInsideThePayload) {
  const Sent sent{.id = ids::dm_log, .seq = 1, .ack = 1};
  Bytes payload(160);
  const std::uint32_t seq = 77;
  std::memcpy(payload.data() + 148, &seq, sizeof seq);
  EXPECT_EQ(match::DmLog{77}(sent, with(ids::dm_log, 0, 0, payload)), Match::last);
  EXPECT_EQ(match::DmLog{78}(sent, with(ids::dm_log, 78, 0, payload)), Match::no);
  EXPECT_EQ(match::DmLog{78}(sent, with(ids::dm_log, 78, ENOSYS)), Match::last) << "an empty one is an error";
  payload.resize(150);
  EXPECT_EQ(match::DmLog{77}(sent, with(ids::dm_log, 77, 0, payload)), Match::no);
}

// --- Losses ----------------------------------------------------------------------------------------------------------

TEST_F(ConnectorClient, ALossIsToldBetweenWhatCameBeforeAndAfter) {
  kernel_.receive_buffer = 832 * 4;
  const auto token = client_->subscribe(id, [&](const Message& message) { heard_ += text_of(message.payload) + " "; });
  client_->set_loss_handler([&](std::uint64_t lost) { heard_ += "lost:" + std::to_string(lost) + " "; });
  for (int i = 0; i < 8; ++i) arrive(id, std::to_string(i));
  dispatch();
  arrive(id, "8");
  dispatch();
  EXPECT_EQ(heard_, "0 1 2 3 4 lost:3 8 ");
  EXPECT_EQ(client_->counters().lost, 3U);
}

TEST_F(ConnectorClient, PendingRequestsAreToldOfALossAndGoOn) {
  std::uint32_t seq = 0;
  std::uint32_t ack = 0;
  kernel_.on_send = [&](const auto& sent) { seq = sent.seq, ack = sent.ack; };
  const auto token =
      must(client_->request({.id = id}, match::Documented{}, Deadline::after(60s), [&](const Reply& reply) {
        heard_ += reply.kind == Reply::Kind::lost ? "lost:" + std::to_string(reply.lost) + " "
                                                  : text_of(reply.message.payload);
      }));
  kernel_.receive_buffer = 832;
  for (int i = 0; i < 5; ++i) arrive(other, "");
  dispatch();
  EXPECT_TRUE(token.is_active());
  arrive(id, "reply", seq, ack + 1);
  dispatch();
  EXPECT_EQ(heard_, "lost:3 reply");
}

TEST_F(ConnectorClient, ATimeOutAfterALossSaysSo) {
  kernel_.on_send = [&](const auto&) {
    kernel_.receive_buffer = 0;
    for (int i = 0; i < 5; ++i) arrive(other, "");
  };
  const auto result = client_->ask({.id = id}, match::Documented{}, Deadline::after(1ms));
  ASSERT_TRUE(test::fails_with(result, ETIMEDOUT));
  EXPECT_NE(result.error().message().find("were lost"), std::string::npos) << result.error().message();
}

class ConnectorLossModel : public ConnectorClient, public testing::WithParamInterface<unsigned> {};

/// Numbered messages arrive at random before, between and during reads. Whenever the received numbers have a gap, the
/// loss handler must have reported exactly that many messages at that position.
TEST_P(ConnectorLossModel, EveryLossIsToldOnceAtItsPlaceWithItsCount) {
  std::mt19937 random(GetParam());
  std::uint64_t next = 0;
  std::uint64_t expected = 0;
  std::uint64_t told = 0;
  kernel_.receive_buffer = 832 * static_cast<std::uint32_t>(1 + random() % 100);
  const auto produce = [&](std::uint64_t count) {
    for (std::uint64_t i = 0; i < count; ++i) {
      Bytes payload(40);
      std::memcpy(payload.data(), &next, sizeof next);
      ++next;
      kernel_.arrive(netlink({cn(id, 0, 0, payload)}));
    }
  };
  const auto token = client_->subscribe(id, [&](const Message& message) {
    EXPECT_EQ(read_at<std::uint64_t>(message.payload), expected);
    ++expected;
  });
  client_->set_loss_handler([&](std::uint64_t lost) { expected += lost, told += lost; });
  // Messages arrive while we read, but not between the two queue checks of one read.
  kernel_.before_receive = [&](std::size_t taken) {
    if (taken % 7 == 3) produce(random() % 12);
  };
  for (int round = 0; round < 200; ++round) {
    produce(random() % 300);
    dispatch();
  }
  kernel_.before_receive = nullptr;
  for (int i = 0; i < 3; ++i) dispatch();
  EXPECT_EQ(expected, next);
  EXPECT_EQ(told, kernel_.drops);
  EXPECT_GT(told, 0U);
}

INSTANTIATE_TEST_SUITE_P(Seeds, ConnectorLossModel, testing::Range(1U, 25U));

}  // namespace
}  // namespace dmaflow::connector
