#include "none_usable.hpp"

#include <algorithm>
#include <cerrno>
#include <vector>

namespace dmaflow::detail {
namespace {

constexpr std::size_t most_nodes = 4;  // named in one group
constexpr std::size_t room = 380;      // in Error's detail, besides the count of what was left out

/// Nodes that are not usable for the same reason.
struct Group {
  std::string nodes;
  std::size_t count = 0;
  const Unusable* first = nullptr;

  [[nodiscard]] std::string text() const {
    const std::string more = count > most_nodes ? " and " + std::to_string(count - most_nodes) + " more" : "";
    return nodes + more + ": " + first->why;
  }
};

/// Nodes that may be a device of the wanted kind come first.
std::vector<Group> groups_of(std::span<const Unusable> looked_at) {
  std::vector<Group> groups;
  for (const Unusable& one : looked_at) {
    auto found = std::ranges::find_if(groups, [&](const Group& group) { return group.first->why == one.why; });
    if (found == groups.end()) found = groups.insert(groups.end(), Group{.nodes = {}, .first = &one});
    if (++found->count <= most_nodes) found->nodes += (found->nodes.empty() ? "" : ", ") + one.node;
  }
  std::ranges::stable_partition(groups, [](const Group& group) { return group.first->code != 0; });
  return groups;
}

}  // namespace

Error none_usable(const Search& search, std::span<const Unusable> looked_at) {
  const auto groups = groups_of(looked_at);
  const int code = groups.empty() ? 0 : groups.front().first->code;
  const std::string advice = code == 0 ? std::string("; ") + search.advice : "";
  std::string text = groups.empty() ? std::string("there is no ") + search.nodes : "";
  std::size_t left_out = 0;
  for (const Group& group : groups) {
    const std::string next = (text.empty() ? "" : "; ") + group.text();
    const bool fits = text.empty() || text.size() + next.size() + advice.size() < room;
    if (fits) text += next;
    if (!fits) left_out += group.count;
  }
  if (left_out > 0) text += "; and " + std::to_string(left_out) + " others";
  return Error::os(code == 0 ? ENODEV : code, "open", search.nodes)
      .detail("no %s was found: %s%s", search.what, text.c_str(), advice.c_str());
}

}  // namespace dmaflow::detail
