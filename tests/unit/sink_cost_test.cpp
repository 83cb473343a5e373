// What a frame costs in the sinks that have a thread: no allocation in either thread.
#include "count_new.hpp"
#include "fake.hpp"

#include <dmaflow/file_sink.hpp>
#include <dmaflow/thread_sink.hpp>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <unistd.h>

using namespace dmaflow;
using namespace dmaflow::test;

namespace {

using std::chrono::seconds;

/// Passes @p sink rounds of three frames, and returns the number of allocations in any thread after the first round.
std::size_t allocations_of(Sink& sink, const StreamConfig& config, PretendDmaBufs& pretend) {
  std::vector<Buffer> buffers;
  for (int i = 0; i < 3; ++i) buffers.push_back(memfd_buffer(config.layout));
  const auto holds = must(HoldSet::create(buffers));
  pretend.syncs.reserve(1000);  // for the hook's own records
  must(sink.set_input(config));
  must(sink.start(buffers));
  const auto round = [&] {
    for (std::uint32_t i = 0; i < buffers.size(); ++i) {
      if (!sink.ready()) must(sink.drain(Deadline::after(seconds(20)), nullptr));
      static_cast<void>(must(sink.accept(must(holds->lend(i, {})))));
      must(sink.flush());
      must(sink.dispatch(0));
    }
    must(sink.drain(Deadline::after(seconds(20)), nullptr));
    while (holds->take_returned()) {
    }
  };
  round();
  const std::size_t before = allocations;
  for (int i = 0; i < 20; ++i) round();
  const std::size_t after = allocations;
  must(sink.stop());
  return after - before;
}

TEST(SinkCost, AFrameThroughAThreadAllocatesNothing) {
  PretendDmaBufs pretend;
  const auto sink = must(ThreadSink::create([](const Frame&, const Cancel&) -> Result<void> { return {}; }));
  EXPECT_EQ(allocations_of(*sink, small_config(), pretend), 0U);
}

TEST(SinkCost, AFrameToAFileAllocatesNothing) {
  PretendDmaBufs pretend;
  char directory[] = "/tmp/dmaflow-cost-XXXXXX";
  ASSERT_NE(::mkdtemp(directory), nullptr);
  for (const char* name : {"/clip.y4m", "/clip.raw"}) {
    const auto sink = must(FileSink::create(directory + std::string(name)));
    EXPECT_EQ(allocations_of(*sink, small_config(formats::nv12, {630, 480}), pretend), 0U) << name;
  }
  std::filesystem::remove_all(directory);
}

}  // namespace
