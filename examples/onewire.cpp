// Lists the 1-wire masters of this machine and the slaves on each, through the Kernel Connector.
//
//     onewire            masters and the slaves that they know
//     onewire --search   searches the bus for slaves, including those without a driver
//     onewire --watch    then reports masters and slaves that are added and removed, until Ctrl-C (needs CAP_NET_ADMIN
//                        before kernel 6.6)
//
// Status 0; 1 if it cannot ask or gets no answer (for example, because the module `wire` is not loaded).
#include "w1_netlink.hpp"

#include <dmaflow/connector.hpp>
#include <dmaflow/stop.hpp>

#include <fmt/core.h>
#include <CLI/CLI.hpp>

#include <array>
#include <chrono>
#include <cstring>
#include <string>
#include <vector>

#include <poll.h>

namespace {

using namespace dmaflow::connector;
using dmaflow::Deadline;
using dmaflow::Result;

/// "28-0123456789ab": family and serial number, as in /sys/bus/w1/devices. The last byte is a checksum.
std::string name_of_slave(std::uint64_t id) {
  return fmt::format("{:02x}-{:012x}", id & 0xffU, (id >> 8U) & 0xffff'ffff'ffffU);
}

/// The numbers in the answer to a request.
template <typename T>
Result<std::vector<T>> ask_for(Client& client, const std::vector<std::byte>& payload, unsigned statuses,
                               std::size_t before) {
  auto replies = client.ask({.id = ids::w1, .payload = payload}, match::W1{.statuses = statuses},
                            Deadline::after(std::chrono::seconds(5)));
  if (!replies) {
    if (replies.error().code() == ETIMEDOUT) {
      replies.error().detail("the kernel's 1-wire does not answer: is it there (modprobe wire)?");
    }
    return std::unexpected(replies.error());
  }
  std::vector<T> all;
  for (const auto& reply : *replies) {
    const auto header = w1::parse_header(reply.bytes);
    if (!header) continue;
    if (header->status != 0) return std::unexpected(dmaflow::Error::os(header->status, "w1", "kernel connector"));
    if (reply.bytes.size() <= before) continue;
    const auto numbers = w1::numbers_in<T>(std::span(reply.bytes).subspan(before));
    all.insert(all.end(), numbers.begin(), numbers.end());
  }
  return all;
}

int fail(const dmaflow::Error& error) {
  fmt::print(stderr, "error: {}\n", error.message());
  return 1;
}

int list(Client& client, bool is_search) {
  const auto masters = ask_for<std::uint32_t>(client, w1::request(w1::Type::list_masters, 0), 0, w1::header_size);
  if (!masters) return fail(masters.error());
  if (masters->empty()) fmt::print("no 1-wire masters\n");
  for (const std::uint32_t master : *masters) {
    fmt::print("master {}\n", master);
    const auto command = is_search ? w1::Command::search : w1::Command::list_slaves;
    const auto slaves = ask_for<std::uint64_t>(client, w1::request(w1::Type::master_command, master, command), 1,
                                               w1::header_size + sizeof(w1::CommandHeader));
    if (!slaves) return fail(slaves.error());
    for (const std::uint64_t slave : *slaves) fmt::print("  slave {}\n", name_of_slave(slave));
    if (slaves->empty()) fmt::print("  no slaves\n");
  }
  return 0;
}

void tell(const Message& message) {
  const auto header = w1::parse_header(message.payload);
  if (!header) return;
  switch (header->type) {
    case w1::Type::slave_added:
    case w1::Type::slave_removed:
      fmt::print("{} slave {}\n", header->type == w1::Type::slave_added ? "+" : "-", name_of_slave(header->id));
      break;
    case w1::Type::master_added:
    case w1::Type::master_removed:
      fmt::print("{} master {}\n", header->type == w1::Type::master_added ? "+" : "-", header->id & 0xffff'ffffU);
      break;
    default:
      break;
  }
  std::fflush(stdout);
}

int watch(Client& client, int stop) {
  const auto token = client.subscribe(ids::w1, tell);
  client.set_loss_handler([](std::uint64_t lost) { fmt::print("! {} messages were lost\n", lost); });
  fmt::print("watching\n");
  std::fflush(stdout);
  while (true) {
    std::array<pollfd, 2> fds{pollfd{client.poll_fd(), client.poll_events(), 0}, pollfd{stop, POLLIN, 0}};
    ::poll(fds.data(), fds.size(), -1);
    if (fds[1].revents != 0) return 0;
    if (auto done = client.dispatch(fds[0].revents); !done) return fail(done.error());
  }
}

}  // namespace

int main(int argc, char** argv) {
  bool is_search = false;
  bool is_watch = false;
  CLI::App app("Lists 1-wire masters and slaves.");
  app.add_flag("--search", is_search, "look on the bus, not only in the kernel's list");
  app.add_flag("--watch", is_watch, "then tell what comes and goes");
  CLI11_PARSE(app, argc, argv);

  const auto stop = dmaflow::stop_on_signals();
  if (!stop) return fail(stop.error());
  auto client = Client::open();
  if (!client) return fail(client.error());
  if (is_watch) {
    if (auto joined = (*client)->socket().join(ids::w1.idx); !joined) return fail(joined.error());
  }
  const int status = list(**client, is_search);
  return status == 0 && is_watch ? watch(**client, stop->get()) : status;
}
