// Shared by the tests of the pipeline: a camera, a display and memory, and the check that every frame was counted.
#pragma once

#include "fake.hpp"

#include <dmaflow/pipeline.hpp>

#include <chrono>

namespace dmaflow::test {

class PipelineFixture : public testing::Test {
 protected:
  void TearDown() override {
    expect_all_counted(pipeline.stats());
    static_cast<void>(pipeline.stop(Deadline::after(std::chrono::milliseconds(100))));
    expect_all_counted(pipeline.stats());
  }
  /// Steps until nothing more happens.
  void settle() {
    while (must(pipeline.step(Deadline::after(std::chrono::milliseconds(5))), "step")) {
    }
  }
  /// Prepares and starts what was connected.
  void start(const StreamRequest& request = {}) {
    pipeline.offer(heap);
    const auto plans = pipeline.prepare(request);
    ASSERT_TRUE(plans) << plans.error().message();
    must(pipeline.start(), "start");
  }
  [[nodiscard]] const StreamStats& stream(std::size_t i = 0) const { return pipeline.stats().streams[i]; }
  [[nodiscard]] const BranchStats& branch(std::size_t i = 0) const { return stream().branches[i]; }

  PretendDmaBufs pretend;
  FakeSource camera{{small_config()}};
  FakeSink display;
  FakeAllocator heap{"heap"};
  Pipeline pipeline;  // TearDown() stops it, before a test's own devices are destroyed
};

}  // namespace dmaflow::test
