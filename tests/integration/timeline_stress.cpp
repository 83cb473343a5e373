// timeline_stress DEVICE STEPS: four producers and four consumers pass items through four lanes, which only timelines
// synchronise. Built with ThreadSanitizer; the only annotation is what a signalled point means, so an item that is read
// before its point is a data race. timeline_test runs it.
#include <dmaflow/cancel.hpp>
#include <dmaflow/timeline.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include <sanitizer/tsan_interface.h>

using namespace dmaflow;
using namespace std::chrono_literals;

namespace {

constexpr unsigned lanes = 4;
constexpr std::uint64_t depth = 32;
constexpr std::uint64_t turn = 16;  // the number of items after which the threads change lanes
constexpr std::uint64_t rare = 64;  // one in so many steps uses the rarer calls

template <typename T>
T must(Result<T> result, const char* what) {
  if (!result) {
    std::fprintf(stderr, "%s: %s\n", what, result.error().message().c_str());
    std::_Exit(1);
  }
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

struct Lane {
  explicit Lane(const SyncobjDevice& device)
      : ready(must(Timeline::create(device), "create")), done(must(Timeline::create(device), "create")) {}
  Timeline ready;  ///< point n: item n is written
  Timeline done;   ///< point n: item n is read
  std::array<std::uint64_t, depth> items{};
  // ThreadSanitizer tracks order by addresses: one for each of the two promises about an item's slot.
  std::array<char, depth> written{};
  std::array<char, depth> read{};
};

Deadline soon() { return Deadline::after(60s); }

/// Waits for a point of another thread; sometimes with a Cancel, which is never set.
void wait_for(const Timeline& timeline, std::uint64_t point, const Cancel& cancel) {
  must(timeline.wait(point, soon(), {.cancel = point % rare == 0 ? &cancel : nullptr}), "wait");
}

void produce(Lane& lane, std::uint64_t n, const Cancel& cancel) {
  if (n > depth) wait_for(lane.done, n - depth, cancel);
  __tsan_acquire(&lane.read[n % depth]);
  lane.items[n % depth] = n;
  __tsan_release(&lane.written[n % depth]);
  if (n > 1) wait_for(lane.ready, n - 1, cancel);  // another producer's point: points must increase
  if (n % 3 == 0) {
    const ReleasePoint promise(lane.ready.at(n));
  } else {
    must(lane.ready.signal(n), "signal");
  }
}

void consume(Lane& lane, std::uint64_t n, const Cancel& cancel) {
  wait_for(lane.ready, n, cancel);
  __tsan_acquire(&lane.written[n % depth]);
  if (lane.items[n % depth] != n) {
    std::fprintf(stderr, "item %llu is %llu\n", static_cast<unsigned long long>(n),
                 static_cast<unsigned long long>(lane.items[n % depth]));
    std::_Exit(1);
  }
  __tsan_release(&lane.read[n % depth]);
  if (n > 1) wait_for(lane.done, n - 1, cancel);
  must(lane.done.signal(n), "signal");
}

/// Fences, transfers and waits for several points; all threads do this on one timeline concurrently.
void take_rare_ways(std::vector<Lane>& all, const Lane& lane, const Timeline& shared, std::uint64_t n) {
  const Fence fence = must(lane.ready.at(n).fence(), "fence");
  must(fence.wait(soon()), "wait for the fence");
  must(shared.import_fence(n, fence), "import");
  must(shared.at(n).transfer_from(lane.ready.at(n)), "transfer");
  must(shared.wait(n, soon()), "wait for what was imported");
  std::vector<TimelinePoint> points;
  for (const Lane& each : all) points.push_back(each.ready.at(1));
  must(wait_all(points, soon()), "wait for all");
  must(wait_any(points, soon()), "wait for any");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const auto begin = std::chrono::steady_clock::now();
  const SyncobjDevice device = must(SyncobjDevice::open(argv[1]), "open");
  const std::uint64_t each = std::strtoull(argv[2], nullptr, 10) / lanes;
  std::vector<Lane> all;
  for (unsigned i = 0; i < lanes; ++i) all.emplace_back(device);
  const Timeline shared = must(Timeline::create(device), "create");
  const Cancel cancel = must(Cancel::create(), "cancel");
  std::atomic<std::uint64_t> steps = 0;

  std::vector<std::thread> threads;
  for (unsigned i = 0; i < lanes; ++i) {
    // Threads change lanes, so that each timeline is used by all eight.
    threads.emplace_back([&, i] {
      for (std::uint64_t n = 1; n <= each; ++n) produce(all[(i + n / turn) % lanes], n, cancel);
    });
    threads.emplace_back([&, i] {
      for (std::uint64_t n = 1; n <= each; ++n) {
        Lane& lane = all[(i + n / turn) % lanes];
        consume(lane, n, cancel);
        if (n % rare == 0) take_rare_ways(all, lane, shared, n);
        steps.fetch_add(1, std::memory_order_relaxed);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Lane& lane : all) {
    if (must(lane.done.query(), "query") != each) return 1;
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  std::printf("%llu steps in %.1f s\n", static_cast<unsigned long long>(steps.load()), took.count());
  return 0;
}
