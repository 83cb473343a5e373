// The messages of the kernel's 1-wire subsystem that the programs need (drivers/w1/w1_netlink.h, which is not a public
// header of the kernel; documented in Documentation/w1/w1-netlink.rst).
#pragma once

#include <dmaflow/connector.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

namespace w1 {

using dmaflow::connector::read_at;

enum class Type : std::uint8_t {
  slave_added,
  slave_removed,
  master_added,
  master_removed,
  master_command,
  slave_command,
  list_masters,
};
enum class Command : std::uint8_t {
  read,
  write,
  search,
  alarm_search,
  touch,
  reset,
  add_slave,
  remove_slave,
  list_slaves
};

/// w1_netlink_msg: 12 bytes, then commands or data.
struct Header {
  Type type{};
  std::uint8_t status = 0;  ///< errno of a reply
  std::uint16_t length = 0;
  std::uint64_t id = 0;  ///< of a slave, or of a master (in the lower 32 bits)
};
constexpr std::size_t header_size = 12;

/// w1_netlink_cmd: 4 bytes, then data.
struct CommandHeader {
  Command command{};
  std::uint8_t reserved = 0;
  std::uint16_t length = 0;
};

inline std::optional<Header> parse_header(std::span<const std::byte> payload) {
  const auto type = read_at<std::uint8_t>(payload, 0);
  const auto status = read_at<std::uint8_t>(payload, 1);
  const auto length = read_at<std::uint16_t>(payload, 2);
  const auto id = read_at<std::uint64_t>(payload, 4);
  if (!id || payload.size() - header_size < *length) return std::nullopt;
  return Header{static_cast<Type>(*type), *status, *length, *id};
}

/// A request to a master, a slave or (list_masters) to all, with at most one command and its data.
inline std::vector<std::byte> request(Type type, std::uint64_t id, std::optional<Command> command = {},
                                      std::span<const std::byte> data = {}) {
  const std::size_t size = header_size + (command ? sizeof(CommandHeader) + data.size() : 0);
  std::vector<std::byte> bytes(size);
  const auto put = [&](std::size_t at, const auto& value) { std::memcpy(bytes.data() + at, &value, sizeof value); };
  put(0, type);
  put(2, static_cast<std::uint16_t>(size - header_size));
  put(4, id);
  if (command) {
    put(header_size, CommandHeader{*command, 0, static_cast<std::uint16_t>(data.size())});
    if (!data.empty()) std::memcpy(bytes.data() + header_size + sizeof(CommandHeader), data.data(), data.size());
  }
  return bytes;
}

/// The numbers in the data of a reply. @p data: without the headers.
template <typename T>
std::vector<T> numbers_in(std::span<const std::byte> data) {
  std::vector<T> numbers;
  for (std::size_t at = 0; at + sizeof(T) <= data.size(); at += sizeof(T)) numbers.push_back(*read_at<T>(data, at));
  return numbers;
}

}  // namespace w1
