// Every Source and Sink of the library, on real devices, with the checks that users run on their own.
#include "kms_support.hpp"
#include "v4l2_support.hpp"

#include <dmaflow/heap.hpp>
#include <dmaflow/testing/conformance.hpp>

using namespace dmaflow;
using namespace dmaflow::test;

namespace {

constexpr Size size{640, 360};
constexpr auto patience = std::chrono::seconds(20);  // the lab is slow

TEST(RealConformance, CamerasKeepTheContractWithTheirOwnMemoryAndWithOthers) {
  const auto heap = must(heap::Allocator::open("system"));
  for (const bool multiplanar : {false, true}) {
    for (Allocator* allocator : {static_cast<Allocator*>(nullptr), static_cast<Allocator*>(heap.get())}) {
      const auto camera = must(v4l2::Camera::open(vivid(Kind::capture, multiplanar)));
      const auto findings = dmaflow::testing::check_source(
          *camera,
          {.request = {.size = size, .formats = {formats::xrgb8888}}, .allocator = allocator, .patience = patience});
      EXPECT_TRUE(findings) << findings.text();
    }
  }
}

TEST(RealConformance, OutputsKeepTheContract) {
  const auto heap = must(heap::Allocator::open("system"));
  for (const bool multiplanar : {false, true}) {
    const auto output = must(v4l2::Output::open(vivid(Kind::output, multiplanar)));
    auto config = stream_of(size);
    config.interval = {1, 30};
    const auto findings =
        dmaflow::testing::check_sink(*output, {.config = config, .allocator = heap.get(), .patience = patience});
    EXPECT_TRUE(findings) << findings.text();
  }
}

TEST(RealConformance, DisplaysKeepTheContract) {
  constexpr Size screen{1280, 720};  // the lab's; virtio-gpu and bochs show no smaller picture
  for (const std::string& driver : displays()) {
    const auto card = must(kms::Device::open(card_path(driver)));
    kms::Plane* plane = must(must(card->output())->plane());
    const auto findings = dmaflow::testing::check_sink(*plane, {.config = stream_of(screen), .patience = patience});
    EXPECT_TRUE(findings) << driver << ": " << findings.text();
  }
}

}  // namespace
