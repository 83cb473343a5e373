#include "explain.hpp"

#include <dmaflow/negotiate.hpp>

#include <algorithm>
#include <cerrno>

namespace dmaflow {
namespace {

/// Cost of memory by owner, ranked as in the list in negotiate.hpp. The steps leave space for the order within a rank.
enum Cost : std::uint32_t {
  consumer_memory = 0,
  producer_memory = 100,
  contiguous_memory = 200,
  other_memory = 300,
  not_cached = 1000,  // added if a consumer reads by CPU
};

struct Offerer {
  Allocator* allocator = nullptr;
  std::uint32_t cost = 0;
};

/// The cheapest memory that works.
struct Chosen {
  Allocator* allocator = nullptr;
  StreamConfig config;
  Constraints constraints;
};

using Step = Candidate::Step;

/// Who refused, why, and at which step.
struct Refusal {
  std::string_view who;
  Error error;
  Step step;
};
using Outcome = std::expected<void, Refusal>;

Outcome outcome_of(Step step, const Participant& who, const Result<void>& result) {
  if (result) return {};
  return std::unexpected(Refusal{who.name(), result.error(), step});
}

Usage merge(const Usage& a, const Usage& b) noexcept {
  return {.capture = a.capture || b.capture,
          .scanout = a.scanout || b.scanout,
          .render = a.render || b.render,
          .cpu = a.cpu || b.cpu};
}

/// The needs of all consumers as they are configured now.
Needs needs_of(const Link& link) {
  Needs all{.constraints = {}, .usage = link.producer->output_usage(), .modifiers = {}};
  for (const Consumer* consumer : link.consumers) {
    const Needs its = consumer->needs();
    all.constraints = merge(all.constraints, its.constraints);
    all.usage = merge(all.usage, its.usage);
  }
  return all;
}

/// Every possible allocator once, in the order of the link.
std::vector<Offerer> offerers(const Link& link) {
  std::vector<Offerer> found;
  const auto add = [&](Allocator* allocator, std::uint32_t cost) {
    if (allocator == nullptr || std::ranges::find(found, allocator, &Offerer::allocator) != found.end()) return;
    if (!link.request.allocator.empty() && allocator->name() != link.request.allocator) return;
    if (std::ranges::find(link.excluded, allocator) != link.excluded.end()) return;
    found.push_back({allocator, cost});
  };
  if (link.producer->brings_buffers()) {
    add(link.producer->output_allocator(), producer_memory);
    return found;
  }
  std::uint32_t order = 0;
  for (Consumer* consumer : link.consumers) add(consumer->input_allocator(), consumer_memory + order++);
  add(link.producer->output_allocator(), producer_memory);
  order = 0;
  for (Allocator* allocator : link.allocators) {
    add(allocator, (allocator->traits().contiguous ? contiguous_memory : other_memory) + order++);
  }
  return found;
}

/// The same, cheapest first. A display's traits may become known only once it is configured.
std::vector<Offerer> by_cost(std::vector<Offerer> found, bool wants_cached) {
  for (Offerer& one : found) {
    if (wants_cached && !one.allocator->traits().cached) one.cost += not_cached;
  }
  std::ranges::stable_sort(found, {}, &Offerer::cost);
  return found;
}

Request request_for(const StreamConfig& config, const Constraints& constraints, const Usage& usage,
                    std::uint32_t count) {
  return Request{.size = config.layout.size,
                 .format = config.layout.format,
                 .modifiers = {config.layout.modifier},
                 .opaque_bytes = config.layout.opaque_bytes,
                 .usage = usage,
                 .count = count,
                 .constraints = constraints};
}

/// Configures the producer and every consumer. @p step: the step this belongs to.
Outcome settle(const Link& link, const StreamConfig& config, Step step) {
  if (auto outcome = outcome_of(step, *link.producer, link.producer->set_output(config)); !outcome) return outcome;
  for (Consumer* consumer : link.consumers) {
    if (auto outcome = outcome_of(step, *consumer, consumer->set_input(link.producer->output())); !outcome) {
      return outcome;
    }
  }
  return {};
}

/// Every consumer that says which modifiers it takes must take this one.
Outcome check_modifier(const Link& link, const Modifier& modifier) {
  for (const Consumer* consumer : link.consumers) {
    const auto takes = consumer->needs().modifiers;
    if (takes.empty() || std::ranges::find(takes, modifier) != takes.end()) continue;
    std::string names;
    for (const Modifier& one : takes) names += (names.empty() ? "" : ", ") + one.name();
    return std::unexpected(Refusal{consumer->name(),
                                   Error::os(EINVAL, "negotiate", consumer->name())
                                       .detail("modifier %s; it takes %s", modifier.name().c_str(), names.c_str()),
                                   Step::configure});
  }
  return {};
}

/// Configures every participant for a stream, without buffers yet.
Outcome agree_on_stream(const Link& link, const StreamConfig& config) {
  for (Consumer* consumer : link.consumers) {
    if (auto outcome = outcome_of(Step::check, *consumer, consumer->check_input(config)); !outcome) return outcome;
  }
  if (auto outcome = settle(link, config, Step::configure); !outcome) return outcome;
  return check_modifier(link, link.producer->output().layout.modifier);
}

/// Memory that a driver moves cannot be used with a producer that keeps writing to its old location.
Outcome check_moves(const Link& link, const Allocator& allocator, const Buffer& buffer) {
  const bool moves = allocator.traits().moves ||
                     std::ranges::any_of(link.consumers, [&](const Consumer* c) { return c->moves(buffer); });
  if (!moves || link.producer->writes_by_cpu()) return {};
  return std::unexpected(
      Refusal{allocator.name(),
              Error::os(ENOTSUP, "negotiate", allocator.name())
                  .detail("the driver moves this memory when it is shown, and %s would go on writing to where it was",
                          std::string(link.producer->name()).c_str()),
              Step::moves});
}

/// Tries a buffer with the producer and all consumers.
Outcome try_buffer(const Link& link, const Buffer& buffer) {
  if (auto outcome = outcome_of(Step::producer, *link.producer, link.producer->try_output(buffer)); !outcome) {
    return outcome;
  }
  for (Consumer* consumer : link.consumers) {
    if (auto outcome = outcome_of(Step::consumer, *consumer, consumer->import(buffer)); !outcome) return outcome;
  }
  return {};
}

/// Tries one buffer of this allocator that meets these constraints with every participant, for the agreed stream. If
/// the buffer's strides differ, the producer adopts them.
Outcome try_allocator(const Link& link, Allocator& allocator, const StreamConfig& agreed,
                      const Constraints& constraints, const Usage& usage) {
  if (link.producer->output().layout != agreed.layout) {  // an earlier trial changed it
    if (auto outcome = settle(link, agreed, Step::configure); !outcome) return outcome;
  }
  auto made = allocator.allocate(request_for(link.producer->output(), constraints, usage, 1));
  if (!made) return std::unexpected(Refusal{allocator.name(), made.error(), Step::allocate});
  const Buffer buffer = std::move(made->front());
  made->clear();
  if (buffer.layout() != link.producer->output().layout) {
    StreamConfig follow = link.producer->output();
    follow.layout = buffer.layout();
    if (auto outcome = settle(link, follow, Step::producer); !outcome) return outcome;
  }
  if (auto outcome = try_buffer(link, buffer); !outcome) return outcome;
  return check_moves(link, allocator, buffer);
}

void note_refusal(Candidate& candidate, const Refusal& refusal) {
  candidate.refused_by = refusal.who;
  candidate.refusal = refusal.error;
  candidate.step = refusal.step;
}

/// The constraints that the allocators are asked to meet, in this order. Those with the consumers' needs come first: a
/// camera may adopt them, and a heap may meet them. If one of them cannot, the consumer may accept less than it asked
/// for.
std::vector<Constraints> constraints_to_ask(const Constraints& producers, const Constraints& needed) {
  std::vector<Constraints> asked{merge(producers, needed)};
  Constraints without_needs = producers;
  without_needs.cached = asked.front().cached;  // a preference, which nobody refuses
  if (asked.front() != without_needs) asked.push_back(without_needs);
  return asked;
}

/// Tries one allocator with each of the constraints in turn until one works; every trial becomes a candidate.
std::optional<Chosen> try_in_turn(const Link& link, const Offerer& offerer, const StreamConfig& agreed,
                                  std::span<const Constraints> asked, const Usage& usage,
                                  std::vector<Candidate>& candidates) {
  for (const Constraints& constraints : asked) {
    const Outcome outcome = try_allocator(link, *offerer.allocator, agreed, constraints, usage);
    Candidate& candidate = candidates.emplace_back();
    candidate.config = link.producer->output();
    candidate.config.constraints = constraints;
    candidate.allocator = offerer.allocator->name();
    candidate.cost = offerer.cost;
    if (outcome) return Chosen{offerer.allocator, link.producer->output(), constraints};
    note_refusal(candidate, outcome.error());
  }
  return std::nullopt;
}

/// Tries every allocator for the agreed stream; returns the cheapest that works.
std::optional<Chosen> try_all(const Link& link, const std::vector<Offerer>& memory, const Needs& needs,
                              std::vector<Candidate>& candidates) {
  const StreamConfig agreed = link.producer->output();
  const auto asked = constraints_to_ask(agreed.constraints, needs.constraints);
  std::optional<Chosen> best;
  // Cheapest first. All are tried, so that the plan can give the reason of each refusal.
  for (const Offerer& offerer : by_cost(memory, needs.constraints.cached)) {
    const auto works = try_in_turn(link, offerer, agreed, asked, needs.usage, candidates);
    if (works && !best) best = works;
  }
  return best;
}

/// As many buffers as all holders need together, or as many as were requested.
Result<std::uint32_t> count_buffers(const Link& link) {
  const std::uint32_t kept = link.producer->min_buffers();
  std::uint32_t needed = kept + link.queued + 1;
  for (const Consumer* consumer : link.consumers) needed += consumer->max_held();
  if (link.request.buffers == 0) return needed + link.request.spare_buffers;
  if (link.request.buffers >= needed) return link.request.buffers + link.request.spare_buffers;
  return std::unexpected(Error::os(EINVAL, "negotiate", link.producer->name())
                             .detail("%u buffers asked for, at least %u are needed: the source keeps %u, "
                                     "its consumers up to %u, and one moves",
                                     link.request.buffers, needed, kept, needed - kept - 1));
}

/// The plan for what was chosen. Trials of costlier memory may have changed the strides, so the devices are configured
/// for the chosen ones again.
Result<Plan> make_plan(const Link& link, const Chosen& chosen, const Usage& usage) {
  if (auto settled = agree_on_stream(link, chosen.config); !settled) return std::unexpected(settled.error().error);
  const auto buffers = count_buffers(link);
  if (!buffers) return std::unexpected(buffers.error());
  return Plan{.config = link.producer->output(),
              .allocator = chosen.allocator,
              .constraints = chosen.constraints,
              .usage = usage,
              .buffers = *buffers};
}

/// Tries one stream after the other until there is memory for one.
std::expected<Plan, Refused> choose(const Link& link, std::span<const StreamConfig> offers,
                                    const std::vector<Offerer>& memory) {
  std::vector<Candidate> candidates;
  for (const StreamConfig& offer : offers) {
    if (auto outcome = agree_on_stream(link, offer); !outcome) {
      note_refusal(candidates.emplace_back(Candidate{.config = offer}), outcome.error());
      continue;
    }
    const Needs needs = needs_of(link);
    const auto best = try_all(link, memory, needs, candidates);
    if (!best) continue;
    auto plan = make_plan(link, *best, needs.usage);
    if (!plan) return std::unexpected(Refused{plan.error(), std::move(candidates)});
    plan->candidates = std::move(candidates);
    return std::move(*plan);
  }
  const Error why = detail::summary_of(candidates, link.producer->name(), link.request.allow_copy);
  return std::unexpected(Refused{why, std::move(candidates)});
}

}  // namespace

Request Plan::request() const { return request_for(config, constraints, usage, buffers); }

std::expected<Plan, Refused> negotiate(const Link& link) {
  const auto offers = link.producer->offers(link.request);
  if (!offers) return std::unexpected(Refused{offers.error(), {}});
  const auto memory = offerers(link);
  if (memory.empty()) {
    return std::unexpected(Refused{Error::os(EINVAL, "negotiate", link.producer->name())
                                       .detail("no allocator%s%s", link.request.allocator.empty() ? "" : " named ",
                                               link.request.allocator.c_str()),
                                   {}});
  }
  return choose(link, *offers, memory);
}

}  // namespace dmaflow
