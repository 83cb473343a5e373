// film: shows 24 frames in one second, each at its time, and prints how far each was off.
#include <dmaflow/dmaflow.hpp>

#include <iostream>

using std::chrono::milliseconds;

int main() try {
  dmaflow::StreamConfig stream;
  stream.layout = dmaflow::Layout::linear(dmaflow::formats::xrgb8888, {1024, 768}).value();
  const auto film = dmaflow::AppSource::create({stream}, {.name = "film", .filling = 2}).value();
  const auto card = dmaflow::kms::Device::open().value();
  dmaflow::BranchOptions options{.policy = dmaflow::Policy::on_time};
  options.on_presented = [](const dmaflow::Presentation& seen) {
    std::cout << std::chrono::duration_cast<milliseconds>(*seen.pts).count() << " ms of the film: off by "
              << std::chrono::duration_cast<std::chrono::microseconds>(seen.presented - seen.target).count() << " us\n";
  };
  dmaflow::Pipeline pipeline;
  pipeline.connect(*film, *card->output().value()->plane().value(), "screen", std::move(options)).value();
  pipeline.start().value();

  // The clock of the sound. Where that is another one, convert_time() says what its times are on CLOCK_MONOTONIC.
  const auto begin = dmaflow::time_on(dmaflow::Clock::monotonic).value() + milliseconds(200);
  for (int number = 0; !pipeline.ended();) {
    if (auto frame = number < 24 ? film->acquire() : dmaflow::Result<dmaflow::Frame>(dmaflow::Frame());
        frame && *frame) {
      dmaflow::FrameInfo info;
      info.pts = std::chrono::nanoseconds(std::chrono::seconds(number++)) / 24;
      info.target = begin + *info.pts;
      film->push(std::move(*frame), info).value();
      if (number == 24) film->end();
    }
    pipeline.step(dmaflow::Deadline::after(milliseconds(20))).value();
  }
  pipeline.stop(dmaflow::Deadline::after(std::chrono::seconds(1))).value();
} catch (const std::bad_expected_access<dmaflow::Error>& failure) {
  std::cerr << "error: " << failure.error().message() << '\n';
  return 1;
}
