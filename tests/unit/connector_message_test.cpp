// Datagrams, well-formed or not, and how they are parsed.
#include "connector_support.hpp"

#include <dmaflow/connector_message.hpp>

#include <random>

namespace dmaflow::connector {
namespace {

using test::Bytes;
using test::bytes_of;
using test::cn;
using test::netlink;
using End = MessageReader::End;

struct Walk {
  std::vector<std::string> payloads;
  std::vector<Message> messages;
  End end;
};

Walk walk(const Bytes& bytes, bool is_cut = false) {
  Walk result{};
  MessageReader reader(bytes, {.port = 7, .group = 3}, is_cut);
  while (const auto message = reader.next()) {
    result.payloads.push_back(test::text_of(message->payload));
    result.messages.push_back(*message);
  }
  EXPECT_FALSE(reader.next()) << "the end is the end";
  result.end = reader.end();
  return result;
}

TEST(ConnectorMessage, CarriesAllTheKernelSaid) {
  const auto bytes = netlink({cn({3, 1}, 11, 22, bytes_of("hello"), 5)});
  const auto result = walk(bytes);
  ASSERT_EQ(result.messages.size(), 1U);
  const Message& message = result.messages[0];
  EXPECT_EQ(message.id, ids::w1);
  EXPECT_EQ(message.seq, 11U);
  EXPECT_EQ(message.ack, 22U);
  EXPECT_EQ(message.flags, 5U);
  EXPECT_EQ(message.origin.port, 7U);
  EXPECT_EQ(message.origin.group, 3U);
  EXPECT_EQ(result.payloads[0], "hello");
  EXPECT_EQ(result.end, End::clean);
}

TEST(ConnectorMessage, SeveralInOneDatagramAreGivenInOrder) {
  const auto packed =
      netlink({cn({1, 1}, 1, 0, bytes_of("a")), cn({2, 1}, 2, 0, {}), cn({3, 1}, 3, 0, bytes_of("ccc"))});
  EXPECT_EQ(walk(packed).payloads, (std::vector<std::string>{"a", "", "ccc"})) << "cn_msg follows cn_msg unpadded";
  Bytes two = netlink({cn({1, 1}, 1, 0, bytes_of("first"))});
  const Bytes second = netlink({cn({1, 1}, 2, 0, bytes_of("second"))});
  two.insert(two.end(), second.begin(), second.end());
  EXPECT_EQ(walk(two).payloads, (std::vector<std::string>{"first", "second"}));
  EXPECT_EQ(walk(two).end, End::clean);
}

TEST(ConnectorMessage, ACutDatagramGivesWhatIsWholeAndSaysSo) {
  const auto bytes = netlink({cn({1, 1}, 1, 0, bytes_of("whole")), cn({1, 1}, 2, 0, bytes_of("cut off"))});
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    const auto result = walk(Bytes(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(length)), true);
    EXPECT_EQ(result.end, End::truncated) << length;
    EXPECT_EQ(result.payloads.size(), length >= 16 + 25 + 27 ? 2U : length >= 16 + 25 ? 1U : 0U) << length;
  }
}

TEST(ConnectorMessage, TheSameBytesWithoutTheCutAreMalformed) {
  const auto bytes = netlink({cn({1, 1}, 1, 0, bytes_of("eightchr"))});
  for (std::size_t length = 4; length < bytes.size(); ++length) {
    const auto result = walk(Bytes(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(length)));
    EXPECT_EQ(result.end, End::malformed) << length;
    EXPECT_TRUE(result.messages.empty());
  }
}

TEST(ConnectorMessage, LengthsThatCannotBeAreMalformed) {
  for (const std::uint32_t length : {0U, 1U, 15U, 16U, 35U, 1000U, 0x7fffffffU, 0xffffffffU}) {
    Bytes bytes = netlink({cn({1, 1}, 1, 0, bytes_of("data"))});
    std::memcpy(bytes.data(), &length, sizeof length);
    EXPECT_EQ(walk(bytes).end, End::malformed) << length;
  }
  for (const std::uint16_t length : {std::uint16_t{5}, std::uint16_t{0xffff}}) {
    Bytes bytes = netlink({cn({1, 1}, 1, 0, bytes_of("data"))});
    std::memcpy(bytes.data() + 32, &length, sizeof length);
    EXPECT_EQ(walk(bytes).end, End::malformed) << length;
    EXPECT_TRUE(walk(bytes).messages.empty());
  }
}

TEST(ConnectorMessage, AStrayDatagramOfZeroesIsMalformedAndNothingMore) {
  EXPECT_EQ(walk(Bytes(36)).end, End::malformed);
  EXPECT_TRUE(walk(Bytes(36)).messages.empty());
  EXPECT_EQ(walk({}).end, End::clean);
}

TEST(ConnectorMessage, WhatCameBeforeTheFaultIsGiven) {
  Bytes bytes = netlink({cn({1, 1}, 1, 0, bytes_of("good")), cn({1, 1}, 2, 0, bytes_of("bad!"))});
  const std::uint16_t length = 4000;
  std::memcpy(bytes.data() + 16 + 24 + 16, &length, sizeof length);
  EXPECT_EQ(walk(bytes).payloads, std::vector<std::string>{"good"});
  EXPECT_EQ(walk(bytes).end, End::malformed);
}

TEST(ConnectorMessage, AnyBytesEndAndNoMessageReachesOutside) {
  std::mt19937 random(1);
  for (int i = 0; i < 20'000; ++i) {
    Bytes bytes = netlink({cn({1, 1}, 1, 0, Bytes(random() % 40)), cn({1, 1}, 2, 0, Bytes(random() % 40))});
    bytes.resize(random() % (bytes.size() + 1));
    for (unsigned change = random() % 4; change > 0 && !bytes.empty(); --change) {
      bytes[random() % bytes.size()] = static_cast<std::byte>(random());
    }
    for (const Message& message : walk(bytes, random() % 2 == 0).messages) {
      if (message.payload.empty()) continue;
      EXPECT_GE(message.payload.data(), bytes.data());
      EXPECT_LE(message.payload.data() + message.payload.size(), bytes.data() + bytes.size());
    }
  }
}

TEST(ConnectorMessage, ValuesAreReadUnalignedAndOnlyWhereTheyLieWhole) {
  Bytes bytes(1);
  test::append(bytes, std::uint64_t{0x1122334455667788});
  EXPECT_EQ(read_at<std::uint64_t>(bytes, 1), 0x1122334455667788U);
  EXPECT_FALSE(read_at<std::uint64_t>(bytes, 2));
  EXPECT_FALSE(read_at<std::uint8_t>(bytes, 9));
  EXPECT_FALSE(read_at<std::uint8_t>(bytes, ~std::size_t{0}));
}

}  // namespace
}  // namespace dmaflow::connector
