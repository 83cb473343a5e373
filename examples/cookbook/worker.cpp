// worker: measures the mean brightness in a thread of its own while the display shows every frame, for 2 seconds.
#include <dmaflow/dmaflow.hpp>

#include <atomic>
#include <iostream>

int main() try {
  std::atomic<unsigned> mean{0};  // written by the worker, read by the loop
  const auto measure = [&](const dmaflow::Frame& frame, const dmaflow::Cancel& stop) -> dmaflow::Result<void> {
    const auto pixels = dmaflow::CpuAccess::begin(frame.buffer(), dmaflow::Access::read,
                                                  dmaflow::Deadline::after(std::chrono::seconds(1)), &stop);
    if (!pixels) return std::unexpected(pixels.error());  // ends the run with this error
    std::uint64_t sum = 0;
    for (const std::byte value : pixels->plane(0)) sum += std::to_integer<unsigned>(value);
    mean = static_cast<unsigned>(sum / pixels->plane(0).size());
    return {};
  };
  const auto analysis = dmaflow::ThreadSink::create(measure, {.name = "analysis"}).value();
  const auto camera = dmaflow::v4l2::Camera::open().value();
  const auto card = dmaflow::kms::Device::open().value();
  dmaflow::Pipeline pipeline;
  pipeline.connect(*camera, *card->output().value()->plane().value()).value();
  pipeline.connect(*camera, *analysis, "analysis").value();
  pipeline.run({.duration = std::chrono::seconds(2)}).value();
  std::cout << "mean " << mean << '\n';
} catch (const std::bad_expected_access<dmaflow::Error>& failure) {
  std::cerr << "error: " << failure.error().message() << '\n';
  return 1;
}
