#include "explain.hpp"

#include "json.hpp"

#include <algorithm>
#include <cerrno>
#include <string_view>

namespace dmaflow {
namespace {

using Step = Candidate::Step;
using detail::Reason;

constexpr std::size_t most_lines = 6;  // after the first, in a brief text
constexpr std::size_t most_names = 4;  // of formats or allocators in a line

/// The device that the error names; an allocator's error may name its device.
std::string_view who_refused(const Candidate& candidate) noexcept {
  return candidate.refusal->device().empty() ? std::string_view(candidate.refused_by) : candidate.refusal->device();
}

bool has_same_reason(const Candidate& a, const Candidate& b) noexcept {
  return who_refused(a) == who_refused(b) && a.refusal->operation() == b.refusal->operation() &&
         a.refusal->domain() == b.refusal->domain() && a.refusal->code() == b.refusal->code();
}

/// The message, with the name of the device that refused if the error does not contain it.
std::string message_of(const Candidate& candidate) {
  const Error& error = *candidate.refusal;
  const bool is_named = candidate.refused_by.empty() || !error.device().empty();
  return is_named ? error.message() : candidate.refused_by + ": " + error.message();
}

/// "XR24, NV12 and 3 more".
std::string list(const std::vector<std::string>& names) {
  std::string text;
  for (std::size_t i = 0; i < std::min(names.size(), most_names); ++i) text += (i == 0 ? "" : ", ") + names[i];
  if (names.size() > most_names) text += " and " + std::to_string(names.size() - most_names) + " more";
  return text;
}

void add_once(std::vector<std::string>& names, std::string name) {
  if (!name.empty() && std::ranges::find(names, name) == names.end()) names.push_back(std::move(name));
}

/// "XR24, NV12 in memory of heap:system, udmabuf".
std::string subjects(std::span<const Candidate* const> candidates) {
  std::vector<std::string> formats;
  std::vector<std::string> allocators;
  for (const Candidate* candidate : candidates) {
    add_once(formats, candidate->config.layout.format.name());
    add_once(allocators, candidate->allocator);
  }
  return list(formats) + (allocators.empty() ? "" : " in memory of " + list(allocators));
}

/// @p already_said: a text that may already contain the reason's message.
std::string line_of(const Reason& reason, std::size_t all, std::string_view already_said) {
  const std::string message = message_of(*reason.candidates.front());
  return "  " + std::to_string(reason.candidates.size()) + " of " + std::to_string(all) + " refused (" +
         subjects(reason.candidates) + ")" +
         (already_said.find(message) != std::string_view::npos ? ", as said above" : ": " + message) + "\n";
}

/// The reasons in at most @p lines lines.
std::string brief(std::span<const Candidate> candidates, std::size_t lines, std::string_view already_said) {
  const auto reasons = detail::reasons_of(candidates);
  const std::size_t shown = reasons.size() <= lines ? reasons.size() : lines - 1;
  std::string text;
  for (const Reason& reason : std::span(reasons).first(shown)) text += line_of(reason, candidates.size(), already_said);
  if (shown == reasons.size()) return text;
  std::size_t others = 0;
  for (const Reason& reason : std::span(reasons).subspan(shown)) others += reason.candidates.size();
  return text + "  " + std::to_string(others) + " of " + std::to_string(candidates.size()) + " refused for " +
         std::to_string(reasons.size() - shown) + " other reasons\n";
}

std::string_view name_of(Step step) noexcept {
  switch (step) {
    case Step::check:
      return "check";
    case Step::configure:
      return "set_input";
    case Step::allocate:
      return "allocate";
    case Step::producer:
      return "producer";
    case Step::consumer:
      return "consumer";
    case Step::moves:
      return "moves";
    case Step::all_buffers:
      return "all_buffers";
  }
  return "";
}

using detail::json::array;
using detail::json::member;
using detail::json::object;
using detail::json::quote;

std::string text_or_null(std::string_view text) { return text.empty() ? "null" : quote(text); }
std::string boolean(bool value) { return value ? "true" : "false"; }

/// The members of every error.
std::string members_of(const Error& error) {
  return member("device", quote(error.device())) + "," + member("call", quote(error.operation())) + "," +
         member("domain", quote(error.domain() == ErrorDomain::os ? "os" : "vulkan")) + "," +
         member("errno", std::to_string(error.code())) + "," + member("name", text_or_null(error.code_name())) + "," +
         member("detail", quote(error.detail()));
}

/// The members of every stream.
std::string members_of(const StreamConfig& config) {
  const Layout& layout = config.layout;
  return member("stream", quote(config.describe())) + "," + member("width", layout.size.width) + "," +
         member("height", layout.size.height) + "," + member("format", quote(layout.format.name())) + "," +
         member("modifier", quote(layout.modifier.name()));
}

std::string json_of(const Candidate& candidate) {
  std::string refusal = "null";
  if (candidate.refusal) {
    refusal = object({member("by", quote(candidate.refused_by)), member("step", quote(name_of(candidate.step))),
                      members_of(*candidate.refusal)});
  }
  return object({members_of(candidate.config), member("allocator", text_or_null(candidate.allocator)),
                 member("works", boolean(!candidate.refusal)), member("cost", candidate.cost),
                 member("refusal", refusal)});
}

}  // namespace

namespace detail {

std::vector<Reason> reasons_of(std::span<const Candidate> candidates) {
  std::vector<Reason> reasons;
  for (const Candidate& candidate : candidates) {
    if (!candidate.refusal) continue;
    auto found = std::ranges::find_if(
        reasons, [&](const Reason& reason) { return has_same_reason(*reason.candidates.front(), candidate); });
    if (found == reasons.end()) found = reasons.insert(reasons.end(), Reason{});
    found->candidates.push_back(&candidate);
    found->furthest = std::max(found->furthest, candidate.step);
  }
  std::ranges::stable_sort(reasons, [](const Reason& a, const Reason& b) {
    return a.furthest != b.furthest ? a.furthest > b.furthest : a.candidates.size() > b.candidates.size();
  });
  return reasons;
}

Error summary_of(std::span<const Candidate> candidates, std::string_view producer, bool may_copy) {
  const auto reasons = reasons_of(candidates);
  if (reasons.empty()) return Error::os(ENOTSUP, "negotiate", producer).detail("there was nothing to try");
  const Reason& cause = reasons.front();
  const bool any_memory = cause.furthest >= Step::allocate;  // then streams refused earlier add nothing
  const auto is_as_far = [&](const Reason& reason) {
    return any_memory ? reason.furthest >= Step::allocate : reason.furthest == cause.furthest;
  };
  const bool is_only_one = std::ranges::count_if(reasons, is_as_far) == 1;
  const bool cannot_share = cause.furthest >= Step::producer && cause.furthest <= Step::moves &&
                            (cause.error().domain() != ErrorDomain::os || cause.error().code() != EBUSY);
  if (is_only_one && (!cannot_share || candidates.size() == 1)) return cause.error();
  const char* const what = !any_memory ? "no stream suits every device"
                           : may_copy  ? "no memory suits every device"
                                       : "no memory suits every device without a copy, which "
                                         "StreamRequest::allow_copy permits";
  return Error::os(ENOTSUP, "negotiate", producer)
      .detail("%s; %zu of %zu candidates came furthest and ended with: %s", what, cause.candidates.size(),
              candidates.size(), message_of(*cause.candidates.front()).c_str());
}

}  // namespace detail

std::string Candidate::describe() const {
  std::string text = config.describe();
  if (!allocator.empty()) {
    text += " in memory of " + allocator;
    const auto alignment = config.constraints.stride_alignment;
    if (alignment > 1) text += " asked for strides that are multiples of " + std::to_string(alignment);
  }
  if (!refusal) return text + ": works";
  if (refused_by != refusal->device()) text += ": refused by " + refused_by;
  return text + ": " + refusal->message();
}

std::string Plan::explain(Detail how_much) const {
  const std::string chosen(allocator == nullptr ? std::string_view() : allocator->name());
  std::string text = config.describe() + " in " + std::to_string(buffers) + " buffers of " + chosen +
                     (copies ? ", each frame copied once\n" : ", no copy\n");
  if (how_much == Detail::all) {
    for (const Candidate& candidate : candidates) {
      const bool is_chosen = !candidate.refusal && candidate.allocator == chosen;
      text += (is_chosen ? "  * " : "    ") + candidate.describe();
      text += !candidate.refusal && !is_chosen ? ", costs more\n" : "\n";
    }
    return text;
  }
  std::vector<std::string> others;
  for (const Candidate& candidate : candidates) {
    if (!candidate.refusal && candidate.allocator != chosen) add_once(others, candidate.allocator);
  }
  if (!others.empty()) text += "  works too, at a higher cost: memory of " + list(others) + "\n";
  return text + brief(candidates, most_lines - (others.empty() ? 0 : 1), {});
}

std::string Plan::json() const {
  return object({members_of(config),
                 member("allocator", text_or_null(allocator == nullptr ? std::string_view() : allocator->name())),
                 member("buffers", buffers), member("copies", boolean(copies)),
                 member("candidates", array(candidates, [](const Candidate& one) { return json_of(one); }))});
}

std::string Refused::explain(Detail how_much) const {
  std::string text = error.message() + "\n";
  if (how_much == Detail::brief) return text + brief(candidates, most_lines, text);
  for (const Candidate& candidate : candidates) text += "    " + candidate.describe() + "\n";
  return text;
}

std::string Refused::json() const {
  return object({member("error", object({members_of(error)})),
                 member("candidates", array(candidates, [](const Candidate& one) { return json_of(one); }))});
}

}  // namespace dmaflow
