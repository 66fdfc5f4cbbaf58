"""UPT: one transformer block makes the prompts of both towers.

"Unified Vision and Language Prompt Learning", 2022, https://arxiv.org/abs/2210.07225,
which prompts CLIP for images. STOP and DGL compare with its deep variant on videos,
whose code is not public. The number of parameters they print gives the sizes. How the
tokens are split, 8 for the text and 4 for each frame, is our reading.
"""

from torch import Tensor, nn

from mmstop.errors import typed
from mmstop.registry import MODELS

from .prompt_tower import (
    PromptTower,
    at_least_one,
    behind_cls,
    learned,
    pre_norm_block,
    slots,
)

__all__ = ['UPTCLIPViT', 'UnifiedPrompter']


class UnifiedPrompter(nn.Module):
    """Make the prompts of all blocks of both towers from one table.

    The tokens of a block of the video tower attend to one another in a transformer
    block, the same for all blocks. An MLP narrows those for the text tower.

    Args:
        depth: blocks of the video tower.
        width: D, its width.
        text_size: depth and width of the text tower.
        num_prompts: P, prompts of a frame, and of a text before and behind its words.
        num_frames: F, frames with prompts of their own.
    """

    def __init__(
        self,
        depth: int,
        width: int,
        text_size: tuple[int, int],
        num_prompts: int,
        num_frames: int,
    ) -> None:
        super().__init__()
        self.num_prompts = num_prompts
        blocks, narrow = text_size
        self.text_blocks = slots(blocks, depth)
        self.table = learned(depth, (2 + num_frames) * num_prompts, width)
        self.block = pre_norm_block(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, narrow)
        )

    def text(self) -> Tensor:
        """Return the text tower's prompts: (its depth, 2 P, its width)."""
        return self.mlp(
            self.block(self.table)[self.text_blocks, : 2 * self.num_prompts]
        )

    def frames(self) -> Tensor:
        """Return the video tower's prompts: (depth, F, P, D)."""
        made = self.block(self.table)[:, 2 * self.num_prompts :]
        return made.unflatten(1, (-1, self.num_prompts))


@MODELS.register_module()
class UPTCLIPViT(PromptTower):
    """Prompt every block of a frozen CLIP with tokens that both towers share.

    (B, 3, T, H, W) -> (B, E). Each frame attends to its own prompts, which serve only
    as keys and values, and the wrapped tower averages over frames. The text tower must
    be a :class:`PromptedCLIPText` with ``num_prompts=0``.

    Args:
        clip: config of the video tower.
        num_prompts: P, prompts of a frame, and of a text before and behind its words.
        num_frames: frames with prompts of their own. Another number of frames takes
            them evenly from these.

    Raises:
        ConfigError: a number is less than 1, or the tower merges patches.
    """

    @typed
    def __init__(
        self,
        clip: dict = dict(type='CLIPViT', arch='ViT-B-32-quickgelu', weights='openai'),
        num_prompts: int = 4,
        num_frames: int = 12,
    ) -> None:
        at_least_one(num_prompts=num_prompts, num_frames=num_frames)
        super().__init__(clip)
        self.prompter = UnifiedPrompter(
            self.depth, self.width, self.text_size, num_prompts, num_frames
        )

    def text_prompts(self) -> Tensor:
        return self.prompter.text()

    def forward(self, video: Tensor) -> Tensor:
        """Embed a batch of clips: (B, 3, T, H, W) -> (B, E)."""
        x = self.embed(video)
        prompts = self.prompter.frames()
        own = slots(x.shape[1], prompts.shape[1])
        for i in range(self.depth):
            context = behind_cls(x, prompts[i, own])
            x = self.run_block(i, self.read(x) if i == self.depth - 1 else x, context)
        return self.pool(x, video)
