// The connector's other peers in the kernel: 1-wire (requests, replies and events), the kernel's sample and
// dm-log-userspace.
#include "allocator_checks.hpp"
#include "connector_support.hpp"

#include "../../examples/w1_netlink.hpp"

#include <dmaflow/connector.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <string>
#include <thread>

#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <linux/dm-log-userspace.h>
#include <linux/i2c-dev.h>
#include <linux/i2c.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/sysmacros.h>

namespace dmaflow::connector {
namespace {

using namespace std::chrono_literals;
using test::must;

Deadline soon() { return Deadline::after(20s); }
constexpr const char* page = "docs/connector.md";

/// A 1-wire status, which is an errno or 0, as a value to observe().
std::string status_text(unsigned status) {
  const char* name = ::strerrorname_np(static_cast<int>(status));
  return status == 0 ? "0" : name != nullptr ? name : std::to_string(status);
}

/// Dispatches until a condition is true.
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

/// The bus of i2c-stub, which emulates a chip that is a 1-wire master.
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

/// The answers of the emulated chip. The driver (drivers/w1/masters/ds2482.c) writes a command, with or without a
/// parameter, and reads bytes. i2c-stub takes the command as the number of a register. It returns that register if
/// there was no parameter, and the next one if there was; then those that follow.
class Chip {
 public:
  explicit Chip(const std::string& bus) : bus_(Fd::adopt(::open(("/dev/" + bus).c_str(), O_RDWR | O_CLOEXEC))) {
    // Forced, because the driver owns the address.
    EXPECT_EQ(::ioctl(bus_.get(), I2C_SLAVE_FORCE, 0x18), 0) << std::strerror(errno);
  }
  void set(std::uint8_t reg, std::uint8_t value) const {
    i2c_smbus_data data{.byte = value};
    i2c_smbus_ioctl_data call{I2C_SMBUS_WRITE, reg, I2C_SMBUS_BYTE_DATA, &data};
    EXPECT_EQ(::ioctl(bus_.get(), I2C_SMBUS, &call), 0) << std::strerror(errno);
  }
  /// Whether slaves answer the reset (0xb4) with a presence pulse.
  void set_presence(bool is_there) const { set(0xb4, is_there ? 0x02 : 0); }
  /// The value of every byte that is read: 0xe1 with a parameter sets the read pointer to the data.
  void set_data(std::uint8_t value) const { set(0xe2, value); }
  /// The result of every step of a search (0x78 with a parameter), so that only these devices can be found.
  enum class OnBus : std::uint8_t { nobody = 0x60, zeros = 0x40, ones = 0xa0 };
  void set_found(OnBus found) const { set(0x79, static_cast<std::uint8_t>(found)); }

 private:
  Fd bus_;
};

class W1 : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (!test::in_lab()) return;
    run("modprobe wire && modprobe i2c-stub chip_addr=0x18 && modprobe i2c-dev && modprobe ds2482");
    const std::string bus = stub_bus();
    ASSERT_NE(bus, "");
    // The chip's status register, which its driver checks: reset, not busy, device present.
    run("i2cset -y " + bus.substr(bus.rfind('-') + 1) + " 0x18 0xf0 0x18 b");
  }
  void SetUp() override {
    if (!test::in_lab()) GTEST_SKIP() << "needs the lab's 1-wire";
    client_ = must(Client::open());
    bus_ = stub_bus();
    if (!std::filesystem::exists("/sys/bus/w1/devices/w1_bus_master1")) add_master();
    chip_.emplace(bus_.substr(bus_.rfind('/') + 1));
    chip_->set_presence(false);
    chip_->set_found(Chip::OnBus::nobody);
  }
  /// Writes to one of the master's files in sysfs.
  static void write_to_master(const char* file, const std::string& text) {
    std::ofstream stream(std::string("/sys/bus/w1/devices/w1_bus_master1/") + file);
    stream << text << std::flush;
    EXPECT_TRUE(stream) << file;
  }
  void add_master() const { std::ofstream(bus_ + "/new_device") << "ds2482 0x18"; }
  void remove_master() const { std::ofstream(bus_ + "/delete_device") << "0x18"; }

  Result<std::vector<Client::Kept>> ask(const std::vector<std::byte>& payload, unsigned statuses = 1) {
    return client_->ask({.id = ids::w1, .payload = payload}, match::W1{.statuses = statuses}, soon());
  }
  static std::uint8_t status_of(const Client::Kept& reply) {
    return w1::parse_header(reply.bytes).value_or(w1::Header{}).status;
  }
  static std::uint64_t id_of(const Client::Kept& reply) {
    return w1::parse_header(reply.bytes).value_or(w1::Header{}).id;
  }
  std::uint32_t master() {
    const auto replies = must(ask(w1::request(w1::Type::list_masters, 0), 0));
    const auto masters = w1::numbers_in<std::uint32_t>(std::span(replies.at(0).bytes).subspan(w1::header_size));
    EXPECT_EQ(masters.size(), 1U);
    return masters.at(0);
  }

  /// The answer of a master or a slave: the data of each reply after the command, and the status of the last one.
  struct Answer {
    std::vector<test::Bytes> data;
    unsigned status = 0;
    /// All data, from any number of messages.
    [[nodiscard]] test::Bytes bytes() const {
      test::Bytes all;
      for (const test::Bytes& part : data) all.insert(all.end(), part.begin(), part.end());
      return all;
    }
  };
  Answer answer_to(w1::Type type, std::uint64_t id, w1::Command command, std::span<const std::byte> data = {}) {
    Answer answer;
    for (const auto& reply : must(ask(w1::request(type, id, command, data)))) {
      const auto header = w1::parse_header(reply.bytes).value_or(w1::Header{});
      EXPECT_EQ(header.type, type);
      EXPECT_EQ(header.id, id);
      EXPECT_EQ(static_cast<w1::Command>(reply.bytes.at(w1::header_size)), command);
      EXPECT_EQ(reply.bytes.size(), w1::header_size + header.length);
      const auto after = std::span(reply.bytes).subspan(w1::header_size + sizeof(w1::CommandHeader));
      if (reply.message.ack == reply.message.seq + 1) answer.data.emplace_back(after.begin(), after.end());
      answer.status = header.status;
    }
    return answer;
  }
  Answer answer_of_master(w1::Command command, std::span<const std::byte> data = {}) {
    return answer_to(w1::Type::master_command, master(), command, data);
  }
  /// Subscribes to additions and removals, recorded as "+slave ID " and so on.
  Subscription hear(std::string& heard) {
    must(client_->socket().join(ids::w1.idx));
    return client_->subscribe(ids::w1, [&heard](const Message& message) {
      const auto header = w1::parse_header(message.payload);
      if (!header) return;  // the stray message
      EXPECT_EQ(message.origin.group, 3U);
      EXPECT_TRUE(message.origin.is_kernel());
      const char* const names[] = {"+slave", "-slave", "+master", "-master"};
      std::array<char, 64> text{};
      std::snprintf(text.data(), text.size(), "%s %llx ",
                    names[std::min<unsigned>(static_cast<unsigned>(header->type), 3)],
                    static_cast<unsigned long long>(header->id));
      heard += text.data();
    });
  }

  // Family 0x28, number 0x0123456789ab, and the checksum, which the kernel verifies.
  static constexpr std::uint64_t slave = 0x5a0123456789ab28;
  static test::Bytes bytes_of_id(std::uint64_t id) {
    test::Bytes bytes;
    test::append(bytes, id);
    return bytes;
  }
  std::unique_ptr<Client> client_;
  std::string bus_;
  std::optional<Chip> chip_;
};

TEST_F(W1, MastersAreListed) { EXPECT_GT(master(), 0U); }

TEST_F(W1, DataAndStatusOfOneRequestAreItsParts) {
  const auto replies = must(ask(w1::request(w1::Type::master_command, master(), w1::Command::list_slaves)));
  ASSERT_EQ(replies.size(), 2U);
  EXPECT_EQ(replies[0].message.ack, replies[0].message.seq + 1) << "data";
  EXPECT_NE(replies[1].message.ack, replies[1].message.seq + 1) << "status";
  EXPECT_EQ(status_of(replies[1]), 0U);
}

TEST_F(W1, AResetSaysWhetherAnybodyIsThere) {
  const auto none = answer_of_master(w1::Command::reset);
  test::observe("the status of a 1-wire RESET where nobody is", status_text(none.status), page);
  EXPECT_TRUE(none.bytes().empty());
  chip_->set_presence(true);
  const auto some = answer_of_master(w1::Command::reset);
  EXPECT_EQ(some.status, 0U);
  EXPECT_TRUE(some.bytes().empty());
}

TEST_F(W1, AReadGivesTheBytesOfTheBus) {
  const test::Bytes room(5);
  for (const unsigned value : {0x00U, 0xa5U, 0xffU}) {
    chip_->set_data(static_cast<std::uint8_t>(value));
    const auto read = answer_of_master(w1::Command::read, room);
    EXPECT_EQ(read.status, 0U);
    EXPECT_EQ(read.bytes(), test::Bytes(5, static_cast<std::byte>(value)));
  }
}

TEST_F(W1, AWriteIsAnsweredByItsStatusAlone) {
  const auto written = answer_of_master(w1::Command::write, test::bytes_of("x"));
  EXPECT_EQ(written.status, 0U);
  EXPECT_TRUE(written.bytes().empty());
}

TEST_F(W1, AnUnknownCommandIsAnswered) {
  const auto answer = answer_of_master(static_cast<w1::Command>(77));
  test::observe("the status of an unknown 1-wire command", status_text(answer.status), page);
  EXPECT_TRUE(answer.bytes().empty());
}

TEST_F(W1, ASearchGivesTheIdsThatAreFoundOnTheBus) {
  for (const auto command : {w1::Command::search, w1::Command::alarm_search}) {
    const auto without_presence = answer_of_master(command);
    test::observe(std::string("the status of a 1-wire ") + (command == w1::Command::search ? "" : "ALARM_") +
                      "SEARCH where nobody is",
                  status_text(without_presence.status), page);
    EXPECT_TRUE(without_presence.bytes().empty());
    chip_->set_presence(true);
    EXPECT_TRUE(answer_of_master(command).bytes().empty()) << "nobody goes on";
    chip_->set_found(Chip::OnBus::zeros);
    EXPECT_EQ(answer_of_master(command).bytes(), bytes_of_id(0));
    chip_->set_found(Chip::OnBus::ones);
    const auto ones = answer_of_master(command);
    EXPECT_EQ(ones.status, 0U);
    EXPECT_EQ(ones.bytes(), bytes_of_id(~std::uint64_t{0}));
    test::observe("1-wire takes ids with a false checksum into its list",
                  !answer_of_master(w1::Command::list_slaves).bytes().empty(), page);
    chip_->set_presence(false);
    chip_->set_found(Chip::OnBus::nobody);
  }
}

TEST_F(W1, SlavesThatComeAndGoAreToldToTheGroupAndCanBeAsked) {
  std::string heard;
  const auto token = hear(heard);
  write_to_master("w1_master_add", "28-0123456789ab");
  ASSERT_TRUE(dispatch_until(*client_, [&] { return heard == "+slave 5a0123456789ab28 "; })) << heard;
  EXPECT_EQ(answer_of_master(w1::Command::list_slaves).bytes(), bytes_of_id(slave));

  const test::Bytes room(2);
  const unsigned not_on_bus = answer_to(w1::Type::slave_command, slave, w1::Command::read, room).status;
  test::observe("the status of a 1-wire slave that is not on the bus", status_text(not_on_bus), page);
  chip_->set_presence(true);
  chip_->set_data(0x3c);
  const auto read = answer_to(w1::Type::slave_command, slave, w1::Command::read, room);
  EXPECT_EQ(read.status, 0U);
  EXPECT_EQ(read.bytes(), test::Bytes(2, std::byte{0x3c}));

  write_to_master("w1_master_remove", "28-0123456789ab");
  const std::string both = "+slave 5a0123456789ab28 -slave 5a0123456789ab28 ";
  ASSERT_TRUE(dispatch_until(*client_, [&] { return heard == both; })) << heard;
  const auto removed = must(ask(w1::request(w1::Type::slave_command, slave, w1::Command::read, room))).back();
  test::observe("the status of a 1-wire slave that is not in the list", status_text(status_of(removed)), page);
  EXPECT_EQ(id_of(removed), slave);
}

TEST_F(W1, SlavesAreAddedAndRemovedByRequestToo) {
  std::string heard;
  const auto token = hear(heard);
  const auto id = bytes_of_id(slave);
  EXPECT_EQ(answer_of_master(w1::Command::add_slave, id).status, 0U);
  test::observe("the status of a 1-wire SLAVE_ADD of one that is there",
                status_text(answer_of_master(w1::Command::add_slave, id).status), page);
  EXPECT_EQ(answer_of_master(w1::Command::list_slaves).bytes(), id);
  EXPECT_EQ(answer_of_master(w1::Command::remove_slave, id).status, 0U);
  test::observe("the status of a 1-wire SLAVE_REMOVE of one that is not there",
                status_text(answer_of_master(w1::Command::remove_slave, id).status), page);
  EXPECT_TRUE(dispatch_until(*client_, [&] { return heard == "+slave 5a0123456789ab28 -slave 5a0123456789ab28 "; }))
      << heard;
}

TEST_F(W1, ARequestToAMissingMasterIsAnswered) {
  const auto replies = must(ask(w1::request(w1::Type::master_command, 4711, w1::Command::list_slaves)));
  ASSERT_EQ(replies.size(), 1U);
  test::observe("the status of a 1-wire master that is not there", status_text(status_of(replies[0])), page);
  EXPECT_EQ(id_of(replies[0]), 4711U);
}

TEST_F(W1, FlagsReachTheKernel) {
  // A kernel that refuses the flag sends a status; one that ignores it sends the list, which has none.
  const auto payload = w1::request(w1::Type::list_masters, 0);
  const auto replies =
      must(client_->ask({.id = ids::w1, .payload = payload, .flags = 0x80}, match::W1{.statuses = 0}, soon()));
  const unsigned status = status_of(replies.back());
  test::observe("the status of 1-wire flags that there are not", status_text(status), page);
  EXPECT_TRUE(status != 0 || replies.back().bytes.size() > w1::header_size) << "neither a status nor a list";
}

TEST_F(W1, ABundleIsAnsweredWhole) {
  auto payload = w1::request(w1::Type::master_command, master(), w1::Command::list_slaves);
  const auto second = payload;
  payload.insert(payload.end(), second.begin(), second.end());
  const auto before = client_->counters();
  constexpr std::uint16_t bundle = 1;  // W1_CN_BUNDLE
  const auto replies =
      must(client_->ask({.id = ids::w1, .payload = payload, .flags = bundle}, match::W1{.statuses = 2}, soon()));
  const auto after = client_->counters();
  EXPECT_GE(replies.size(), 2U);
  test::observe("1-wire answers a bundle in one datagram",
                after.messages - before.messages > 1 && after.datagrams - before.datagrams == 1, page);
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
          if (header && header->id == (i % 2 == 0 ? number : 4711)) ++(i % 2 == 0 ? good : missing);
        })));
  }
  EXPECT_TRUE(dispatch_until(*client_, [&] { return good + missing == 20; })) << good << " " << missing;
  EXPECT_EQ(good, 10U);
}

TEST_F(W1, MastersThatComeAndGoAreToldToTheGroup) {
  std::string heard;
  std::array<char, 64> expected{};
  const std::uint32_t first = master();
  const auto token = hear(heard);
  remove_master();
  add_master();
  EXPECT_TRUE(dispatch_until(*client_, [&] { return heard.find("+master") != std::string::npos; })) << heard;
  std::snprintf(expected.data(), expected.size(), "-master %x +master %x ", first, master());
  EXPECT_STREQ(heard.c_str(), expected.data());
  must(client_->socket().leave(ids::w1.idx));
  remove_master();
  add_master();
  must(client_->dispatch(0));
  EXPECT_STREQ(heard.c_str(), expected.data()) << "it has left";
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
  test::observe("an ordinary user may join group 14 of the connector", said == "joined", page);
  EXPECT_TRUE(said == "joined" || said.find("CAP_NET_ADMIN") != std::string::npos) << said;
  const std::string odd = test::as_user(1000, {1000}, [] {
    auto socket = Socket::open();
    return socket && socket->join(3) ? "joined" : "refused";
  });
  test::observe("an ordinary user may join group 3 of the connector", odd == "joined", page);
}

TEST(ConnectorSocket, TheReceiveBufferInEffectIsReported) {
  if (!test::in_lab()) GTEST_SKIP() << "needs root and the lab's users";
  auto socket = must(Socket::open());
  const auto as_root = must(socket.set_receive_buffer(8U << 20U));
  EXPECT_TRUE(as_root.is_as_asked);
  EXPECT_GE(as_root.bytes, 8U << 20U);
  EXPECT_EQ(as_root.bytes, must(socket.receive_buffer()));
  std::uint64_t most = 0;  // what an unprivileged user may ask for; the kernel doubles it
  std::ifstream("/proc/sys/net/core/rmem_max") >> most;
  test::observe("net.core.rmem_max", std::to_string(most), page);
  if (most == 0 || most * 4 > 1U << 30U) GTEST_SKIP() << "more than net.core.rmem_max cannot be asked for";
  const std::string said = test::as_user(1000, {1000}, [most] {
    auto mine = Socket::open();
    if (!mine) return mine.error().message();
    const auto buffer = mine->set_receive_buffer(static_cast<std::uint32_t>(most * 4));
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
    if (!test::in_lab()) GTEST_SKIP() << "needs the lab's cn_test";
    // Debian leaves it out, so tests/lab/modules builds it for the kernels for which it can be built.
    if (std::system("modprobe -n -q cn_test") != 0) {  // NOLINT(concurrency-mt-unsafe)
      GTEST_SKIP() << "this kernel has no module cn_test";
    }
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

/// An ioctl on /dev/mapper/control for the device `name`; with a table of one target if `type` is set.
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
  /// Runs @p action in another thread, because the kernel waits there for the answers that are given here.
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
  const int loaded = load();
  ASSERT_GT(loaded, 0);
  test::observe("the device mapper's errno where its log is refused", std::string(::strerrorname_np(loaded)), page);
  EXPECT_EQ(asked, 1U) << "without an answer it asks again";
}

TEST_F(DmLog, TheKernelsQuestionIsAnswered) {
  std::string types;
  const auto token = client_->respond<answer::DmLog>(ids::dm_log, [&](const Message& question, const Answerer& to) {
    // The answer is the question with its error and data changed: the kernel identifies it by its seq.
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
