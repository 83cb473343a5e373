// The connector's other peers in the kernel: 1-wire, with requests, replies and events; and the kernel's own sample.
#include "allocator_checks.hpp"
#include "connector_support.hpp"

#include "../../examples/w1_netlink.hpp"

#include <dmaflow/connector.hpp>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>

#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <linux/dm-log-userspace.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/sysmacros.h>

namespace dmaflow::connector {
namespace {

using namespace std::chrono_literals;
using test::must;

Deadline soon() { return Deadline::after(20s); }

/// Dispatches until something is so.
template <typename Condition>
bool dispatch_until(Client& client, Condition condition) {
  const Deadline deadline = soon();
  while (!condition()) {
    if (sys::wait(client.poll_fd(), client.poll_events(), deadline) <= 0) return false;
    must(client.dispatch(POLLIN));
  }
  return true;
}

// --- 1-wire ----------------------------------------------------------------------------------------------------------

/// The bus of i2c-stub, which passes for a chip that is a 1-wire master.
std::string stub_bus() {
  for (const auto& entry : std::filesystem::directory_iterator("/sys/bus/i2c/devices")) {
    std::string name;
    std::getline(std::ifstream(entry.path() / "name"), name);
    if (name.starts_with("SMBus stub")) return entry.path();
  }
  return "";
}

void run(const std::string& command) {
  ASSERT_EQ(std::system(command.c_str()), 0) << command;  // NOLINT(concurrency-mt-unsafe)
}

class W1 : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (!test::in_lab()) return;
    run("modprobe wire && modprobe i2c-stub chip_addr=0x18 && modprobe i2c-dev && modprobe ds2482");
    const std::string bus = stub_bus();
    ASSERT_NE(bus, "");
    // The chip's status register, which its driver looks at: reset, not busy, device there.
    run("i2cset -y " + bus.substr(bus.rfind('-') + 1) + " 0x18 0xf0 0x18 b");
  }
  void SetUp() override {
    if (!test::in_lab()) GTEST_SKIP() << "needs the lab's 1-wire";
    client_ = must(Client::open());
    bus_ = stub_bus();
    if (!std::filesystem::exists("/sys/bus/w1/devices/w1_bus_master1")) add_master();
  }
  void add_master() const { std::ofstream(bus_ + "/new_device") << "ds2482 0x18"; }
  void remove_master() const { std::ofstream(bus_ + "/delete_device") << "0x18"; }

  Result<std::vector<Client::Kept>> ask(const std::vector<std::byte>& payload, unsigned statuses = 1) {
    return client_->ask({.id = ids::w1, .payload = payload}, match::W1{.statuses = statuses}, soon());
  }
  static std::uint8_t status_of(const Client::Kept& reply) {
    return w1::parse_header(reply.bytes).value_or(w1::Header{}).status;
  }
  std::uint32_t master() {
    const auto replies = must(ask(w1::request(w1::Type::list_masters, 0), 0));
    const auto masters = w1::numbers_in<std::uint32_t>(std::span(replies.at(0).bytes).subspan(w1::header_size));
    EXPECT_EQ(masters.size(), 1U);
    return masters.at(0);
  }

  std::unique_ptr<Client> client_;
  std::string bus_;
};

TEST_F(W1, MastersAreListed) { EXPECT_GT(master(), 0U); }

TEST_F(W1, DataAndStatusOfOneRequestAreItsParts) {
  const auto replies = must(ask(w1::request(w1::Type::master_command, master(), w1::Command::list_slaves)));
  ASSERT_EQ(replies.size(), 2U);
  EXPECT_EQ(replies[0].message.ack, replies[0].message.seq + 1) << "data";
  EXPECT_NE(replies[1].message.ack, replies[1].message.seq + 1) << "status";
  EXPECT_EQ(status_of(replies[1]), 0U);
}

TEST_F(W1, ResetSearchAndReadAreAnswered) {
  const std::uint32_t number = master();
  EXPECT_EQ(must(ask(w1::request(w1::Type::master_command, number, w1::Command::search))).back().message.id, ids::w1);
  const std::vector<std::byte> room(4);
  for (const auto command : {w1::Command::reset, w1::Command::read}) {
    const auto replies = ask(w1::request(w1::Type::master_command, number, command, room));
    ASSERT_TRUE(replies) << replies.error().message();
    EXPECT_EQ(w1::parse_header(replies->back().bytes)->type, w1::Type::master_command);
  }
}

TEST_F(W1, AMissingMasterIsEnodev) {
  const auto replies = must(ask(w1::request(w1::Type::master_command, 4711, w1::Command::list_slaves)));
  ASSERT_EQ(replies.size(), 1U);
  EXPECT_EQ(status_of(replies[0]), ENODEV);
}

TEST_F(W1, UnknownFlagsAreEinval) {
  const auto payload = w1::request(w1::Type::list_masters, 0);
  const auto replies = must(client_->ask({.id = ids::w1, .payload = payload, .flags = 0x80}, match::W1{}, soon()));
  EXPECT_EQ(status_of(replies.back()), EINVAL);
}

TEST_F(W1, ABundleIsAnsweredInOneDatagram) {
  auto payload = w1::request(w1::Type::master_command, master(), w1::Command::list_slaves);
  const auto second = payload;
  payload.insert(payload.end(), second.begin(), second.end());
  const auto before = client_->counters();
  constexpr std::uint16_t bundle = 1;  // W1_CN_BUNDLE
  const auto replies =
      must(client_->ask({.id = ids::w1, .payload = payload, .flags = bundle}, match::W1{.statuses = 2}, soon()));
  const auto after = client_->counters();
  EXPECT_GE(replies.size(), 2U);
  EXPECT_GT(after.messages - before.messages, after.datagrams - before.datagrams) << "several cn_msg in one nlmsghdr";
  EXPECT_EQ(status_of(replies.back()), 0U);
}

TEST_F(W1, ManyRequestsInFlightAreKeptApart) {
  const std::uint32_t number = master();
  unsigned good = 0;
  unsigned missing = 0;
  std::vector<Subscription> tokens;
  for (std::uint32_t i = 0; i < 20; ++i) {
    const auto payload = w1::request(w1::Type::master_command, i % 2 == 0 ? number : 4711, w1::Command::list_slaves);
    tokens.push_back(
        must(client_->request({.id = ids::w1, .payload = payload}, match::W1{}, soon(), [&, i](const Reply& reply) {
          if (reply.kind != Reply::Kind::last) return;
          const auto header = w1::parse_header(reply.message.payload);
          if (header && header->status == (i % 2 == 0 ? 0 : ENODEV)) ++(i % 2 == 0 ? good : missing);
        })));
  }
  EXPECT_TRUE(dispatch_until(*client_, [&] { return good + missing == 20; })) << good << " " << missing;
  EXPECT_EQ(good, 10U);
}

TEST_F(W1, MastersThatComeAndGoAreToldToTheGroup) {
  must(client_->socket().join(ids::w1.idx));
  std::string heard;
  const auto token = client_->subscribe(ids::w1, [&](const Message& message) {
    EXPECT_EQ(message.origin.group, 3U);
    EXPECT_TRUE(message.origin.is_kernel());
    const auto header = w1::parse_header(message.payload);
    if (header && header->type == w1::Type::master_removed) heard += "removed ";
    if (header && header->type == w1::Type::master_added) heard += "added ";
  });
  remove_master();
  add_master();
  EXPECT_TRUE(dispatch_until(*client_, [&] { return heard == "removed added "; })) << heard;
  must(client_->socket().leave(ids::w1.idx));
  remove_master();
  add_master();
  must(client_->dispatch(0));
  EXPECT_EQ(heard, "removed added ") << "it has left";
}

TEST_F(W1, WhatTheKernelDoesNotKnowIsTakenWithoutAWordAndTimesOut) {
  const auto payload = test::bytes_of("?");
  EXPECT_TRUE(client_->send({.id = {4711, 1}, .payload = payload}));
  EXPECT_TRUE(test::fails_with(client_->ask({.id = {4711, 1}}, match::Documented{}, Deadline::after(10ms)), ETIMEDOUT));
}

// --- The socket itself -----------------------------------------------------------------------------------------------

TEST(ConnectorSocket, GroupsAre1To32) {
  if (!test::in_lab()) GTEST_SKIP() << "needs root";
  auto socket = must(Socket::open());
  for (const std::uint32_t group : {0U, 33U, 64U, 0xffffffffU}) {
    EXPECT_TRUE(test::fails_with(socket.join(group), EINVAL)) << group;
    EXPECT_TRUE(test::fails_with(socket.leave(group), EINVAL)) << group;
  }
  for (const std::uint32_t group : {1U, 3U, 32U}) {
    EXPECT_TRUE(socket.join(group)) << group;
    EXPECT_TRUE(socket.join(group)) << "twice";
    EXPECT_TRUE(socket.leave(group)) << group;
  }
}

TEST(ConnectorSocket, WithoutPrivilegeJoiningSaysWhatHelps) {
  if (!test::in_lab()) GTEST_SKIP() << "needs the lab's users";
  const std::string said = test::as_user(1000, {1000}, [] {
    auto socket = Socket::open();
    if (!socket) return socket.error().message();
    const auto joined = socket->join(14);
    return joined ? "joined" : joined.error().message();
  });
  EXPECT_NE(said.find("CAP_NET_ADMIN"), std::string::npos) << said;
}

TEST(ConnectorSocket, TheReceiveBufferInEffectIsReported) {
  if (!test::in_lab()) GTEST_SKIP() << "needs root and the lab's users";
  auto socket = must(Socket::open());
  const auto as_root = must(socket.set_receive_buffer(8U << 20U));
  EXPECT_TRUE(as_root.is_as_asked);
  EXPECT_EQ(as_root.bytes, 8U << 20U);
  const std::string said = test::as_user(1000, {1000}, [] {
    auto mine = Socket::open();
    if (!mine) return mine.error().message();
    const auto buffer = mine->set_receive_buffer(256U << 20U);  // over any default of net.core.rmem_max
    if (!buffer) return buffer.error().message();
    return std::string(buffer->is_as_asked ? "as asked" : "less") +
           (buffer->bytes == mine->receive_buffer().value_or(0) ? ", true" : ", false");
  });
  EXPECT_EQ(said, "less, true");
}

TEST(ConnectorSocket, IsClosedOnExecAndNeverBlocks) {
  auto opened = Socket::open();
  if (!opened && !test::in_lab()) GTEST_SKIP() << opened.error().message();
  const auto socket = must(std::move(opened));
  EXPECT_EQ(::fcntl(socket.poll_fd(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  EXPECT_EQ(::fcntl(socket.poll_fd(), F_GETFL) & O_NONBLOCK, O_NONBLOCK);
}

// --- samples/connector/cn_test ---------------------------------------------------------------------------------------

class CnTest : public testing::Test {
 protected:
  void SetUp() override {
    const char* kernel = std::getenv("DMAFLOW_LAB_KERNEL");
    if (!test::in_lab() || (kernel != nullptr && std::string_view(kernel) == "6.1"))
      GTEST_SKIP() << "needs the lab's cn_test";
    run("modprobe cn_test");
    client_ = must(Client::open());
  }
  void TearDown() override {
    if (client_) run("modprobe -r cn_test");
  }
  std::unique_ptr<Client> client_;
};

TEST_F(CnTest, WhatTheModuleSaysEachSecondIsHeard) {
  constexpr std::uint32_t group = 0xe;
  must(client_->socket().join(group));
  std::vector<std::pair<std::uint32_t, std::string>> heard;
  CbId from{};
  client_->set_default_handler([&](const Message& message) {
    from = message.id;
    heard.emplace_back(message.seq, test::text_of(message.payload));
  });
  ASSERT_TRUE(dispatch_until(*client_, [&] { return heard.size() >= 2; }));
  EXPECT_EQ(from.idx, group);
  EXPECT_EQ(heard[1].first, heard[0].first + 1);
  EXPECT_NE(heard[0].second.find("counter"), std::string::npos) << heard[0].second;
}

TEST_F(CnTest, WhatItIsToldItHears) {
  const auto payload = test::bytes_of("told by dmaflow");
  must(client_->send({.id = {0xe, 0x456}, .payload = payload, .numbers = {.seq = 1234, .ack = 5678}}));
  std::string log(1U << 20U, '\0');
  const int size = ::klogctl(3, log.data(), static_cast<int>(log.size()));
  ASSERT_GT(size, 0);
  log.resize(static_cast<std::size_t>(size));
  EXPECT_NE(log.find("1234"), std::string::npos);
  EXPECT_NE(log.find("told by dmaflow"), std::string::npos);
}

// --- dm-log-userspace: the kernel asks, the program answers ---------------------------------------------------------

/// An ioctl on /dev/mapper/control about the device `name`, with a table of one target where there is one.
int dm(unsigned long request, const std::string& name, const std::string& type = "", const std::string& parameters = "",
       std::uint64_t sectors = 0, std::uint64_t* device = nullptr) {
  alignas(8) std::array<char, 4096> room{};
  dm_ioctl head{};
  head.version[0] = DM_VERSION_MAJOR;
  head.data_size = room.size();
  head.data_start = sizeof head;
  name.copy(head.name, sizeof head.name - 1);
  if (!type.empty()) {
    head.target_count = 1;
    dm_target_spec target{};
    target.length = sectors;
    type.copy(target.target_type, sizeof target.target_type - 1);
    std::memcpy(room.data() + sizeof head, &target, sizeof target);
    parameters.copy(room.data() + sizeof head + sizeof target, parameters.size());
  }
  std::memcpy(room.data(), &head, sizeof head);
  const int control = ::open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
  if (control < 0) return errno;
  const int result = ::ioctl(control, request, room.data()) == 0 ? 0 : errno;
  ::close(control);
  std::memcpy(&head, room.data(), sizeof head);
  if (device != nullptr) *device = head.dev;
  return result;
}

class DmLog : public testing::Test {
 protected:
  void SetUp() override {
    if (!test::in_lab()) GTEST_SKIP() << "needs the lab's device mapper";
    run("modprobe dm-mod && modprobe dm-mirror && modprobe dm-log-userspace && modprobe dm-zero");
    std::filesystem::create_directories("/dev/mapper");
    if (!std::filesystem::exists("/dev/mapper/control")) run("mknod /dev/mapper/control c 10 236");
    client_ = must(Client::open());
    must(client_->socket().join(ids::dm_log.idx));
    for (const char* leg : {"leg0", "leg1"}) {
      ASSERT_EQ(dm(DM_DEV_CREATE, leg, "", "", 0, &device_), 0);
      ASSERT_EQ(dm(DM_TABLE_LOAD, leg, "zero", "", sectors), 0);
      ASSERT_EQ(dm(DM_DEV_SUSPEND, leg), 0);
      legs_ += " " + std::to_string(major(device_)) + ":" + std::to_string(minor(device_)) + " 0";
    }
    ASSERT_EQ(dm(DM_DEV_CREATE, "mirrored"), 0);
  }
  void TearDown() override {
    for (const char* name : {"mirrored", "leg0", "leg1"}) dm(DM_DEV_REMOVE, name);
  }
  /// Does something in another thread, for the kernel waits there for the answers that are given here.
  int serve(const std::function<int()>& action) {
    std::atomic<int> result = -1;
    std::thread other([&] { result = action(); });
    const Deadline deadline = soon();
    while (result < 0 && deadline.remaining() > 0s) {
      sys::wait(client_->poll_fd(), client_->poll_events(), Deadline::after(10ms));
      must(client_->dispatch(0));
    }
    other.join();
    return result;
  }
  int load() {
    return serve([&] {
      return dm(DM_TABLE_LOAD, "mirrored", "mirror", "userspace 3 some-uuid some-log 1024 2" + legs_, sectors);
    });
  }

  static constexpr std::uint64_t sectors = 20'480;
  std::unique_ptr<Client> client_;
  std::uint64_t device_ = 0;
  std::string legs_;
};

TEST_F(DmLog, TheKernelsQuestionIsRefusedWithTheErrnoOfTheProgram) {
  unsigned asked = 0;
  const auto token = client_->respond<answer::DmLog>(ids::dm_log, [&](const Message& question, const Answerer& to) {
    ++asked;
    EXPECT_GE(question.payload.size(), sizeof(dm_ulog_request));
    EXPECT_TRUE(to.refuse(EDQUOT));
  });
  EXPECT_EQ(load(), EINVAL) << "what the device mapper makes of any refusal";
  EXPECT_EQ(asked, 1U) << "without an answer it asks again";
}

TEST_F(DmLog, TheKernelsQuestionIsAnswered) {
  std::string types;
  const auto token = client_->respond<answer::DmLog>(ids::dm_log, [&](const Message& question, const Answerer& to) {
    // The answer is the question with its error and data changed: its seq is what the kernel knows it by.
    std::vector<std::byte> reply(question.payload.begin(), question.payload.begin() + sizeof(dm_ulog_request));
    const auto type =
        read_at<std::uint32_t>(reply, offsetof(dm_ulog_request, request_type)).value() & DM_ULOG_REQUEST_MASK;
    types += std::to_string(type) + " ";
    const auto set = [&](std::size_t offset, std::uint32_t value) {
      std::memcpy(&reply[offset], &value, sizeof value);
    };
    set(offsetof(dm_ulog_request, error), 0);
    set(offsetof(dm_ulog_request, data_size), type == DM_ULOG_GET_REGION_SIZE ? 8 : 0);
    if (type == DM_ULOG_GET_REGION_SIZE) test::append(reply, std::uint64_t{1024});
    EXPECT_TRUE(to.answer(reply));
  });
  EXPECT_EQ(load(), 0) << types;
  EXPECT_EQ(serve([] { return dm(DM_DEV_REMOVE, "mirrored"); }), 0);
  EXPECT_TRUE(types.ends_with(std::to_string(DM_ULOG_DTR) + " ")) << types;
  EXPECT_TRUE(types.starts_with(std::to_string(DM_ULOG_CTR) + " ")) << types;
}

}  // namespace
}  // namespace dmaflow::connector
