#include "find.hpp"

#include <algorithm>
#include <string>
#include <vector>

namespace dmaflow::kms {
namespace {

constexpr detail::Search displays{
    .what = "display",
    .nodes = "/dev/dri/card*",
    .advice = "connect a monitor, or load a virtual display (sudo modprobe vkms), or name a card by its path"};

std::string named(const Card& card) { return card.driver.empty() ? card.path : card.path + " (" + card.driver + ")"; }

bool is_connected(const Connector& connector) noexcept { return connector.connection == Connection::connected; }

}  // namespace

std::optional<detail::Unusable> why_not(const Card& card) {
  if (card.error) return std::nullopt;  // opening it gives a better reason
  if (card.connectors.empty()) return detail::Unusable{.node = named(card), .why = "a card without a display"};
  if (std::ranges::any_of(card.connectors, is_connected)) return std::nullopt;
  std::string names;
  for (const Connector& connector : card.connectors) names += (names.empty() ? "" : ", ") + connector.name;
  return detail::Unusable{.node = named(card), .why = "no monitor is connected to " + names};
}

Result<std::unique_ptr<Device>> open_first(std::span<const Card> cards) {
  std::vector<detail::Unusable> looked_at;
  for (const Card& card : cards) {
    if (auto unusable = why_not(card)) {
      looked_at.push_back(std::move(*unusable));
      continue;
    }
    auto device = Device::open(card.path);
    if (device) return device;
    const Error& error = device.error();
    looked_at.push_back({.node = named(card),
                         .why = std::string(error.operation()) + ": " + std::string(error.code_name()) +
                                (error.detail().empty() ? "" : ": ") + std::string(error.detail()),
                         .code = error.code()});
  }
  return std::unexpected(detail::none_usable(displays, looked_at));
}

}  // namespace dmaflow::kms
